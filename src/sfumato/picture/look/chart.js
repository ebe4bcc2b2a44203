"use strict";
// Lines over each other whose values can be read: under the pointer, or moved to by the arrow keys.
// A figure.chart holds its data as JSON: {title, unit, log, zero, lines: [{name, colour, kind, x, y}]}.
// A moment, in units of the x axis, is told to the page by a "moment" event; who shows one listens to it.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const count = new Intl.NumberFormat("en");

  const element = (name, attributes = {}, parent = null, text = null) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const html = (name, className, parent, text = "") => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const four = (value) => {
    const size = Math.abs(value);
    return size && (size < 1e-4 || size >= 1e5) ? value.toExponential(2).replace(/\.?0*e\+?/, "e") : String(+value.toPrecision(4));
  };
  const brief = (value) => {
    for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= unit) return +(value / unit).toPrecision(4) + letter;
    }
    return four(value);
  };

  // Round numbers that divide low..high into about `parts`; on a logarithmic axis those that begin with 1, 2 or 5.
  const ticks = (low, high, parts, log) => {
    if (log) {
      const found = [];
      const digits = high / low > 1000 ? [1] : high / low > 100 ? [1, 3] : [1, 2, 5];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const digit of digits) {
          const value = +`${digit}e${power}`;
          if (value >= low && value <= high) found.push(value);
        }
      }
      if (found.length > 1) return found;
    }
    const rough = (high - low) / parts || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((digit) => digit * unit).find((size) => size >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9); k++) found.push(k * step);
    return found;
  };

  // The position of the number in the rising list that is nearest to x.
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
  };

  const draw = (figure) => {
    const {title, unit, log, zero, lines} = JSON.parse(figure.querySelector("script").textContent);
    html("figcaption", "", figure, title);
    if (!lines.length) { html("p", "", figure, "Nothing is recorded yet."); return; }
    const every = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const svg = element("svg", {tabindex: 0, role: "img",
      "aria-label": `${title}, by ${unit}. The arrow keys move through it; the values stand below.`}, figure);
    const legend = html("ul", "legend", figure);
    const place = html("li", "", legend);
    const values = lines.map((line) => {
      const item = html("li", `k${line.colour} ${line.kind}`, legend);
      html("i", "", item);
      html("span", "", item, line.name);
      return html("output", "", item);
    });
    let at = null, across = (x) => x, cursor = null, back = (pixel) => pixel;

    const render = () => {
      const width = figure.clientWidth, height = Math.max(170, Math.min(320, width * 0.5));
      const left = 50, right = 8, top = 8, bottom = 24;
      const ys = lines.flatMap((line) => line.y);
      let low = Math.min(...ys), high = Math.max(...ys);
      const margin = 0.05 * (high - low) || 0.1 * Math.abs(high) || 1;
      [low, high] = log ? [low / 1.08, high * 1.08] : [zero ? 0 : low - margin, high + margin];
      const scale = log ? Math.log : (value) => value;
      const end = every[every.length - 1] || 1;
      across = (x) => left + (x / end) * (width - left - right);
      back = (pixel) => ((pixel - left) / (width - left - right)) * end;
      const up = (y) => height - bottom - ((scale(y) - scale(low)) / (scale(high) - scale(low))) * (height - top - bottom);
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      for (const value of ticks(low, high, height > 250 ? 7 : 5, log)) {
        element("line", {class: "rule", x1: left, x2: width - right, y1: up(value), y2: up(value)}, svg);
        element("text", {x: left - 6, y: up(value) + 4, "text-anchor": "end"}, svg, four(value));
      }
      for (const value of ticks(0, end, width > 500 ? 6 : 3, false)) {
        const anchor = across(value) > width - 30 ? "end" : "middle";
        element("text", {x: across(value), y: height - 6, "text-anchor": anchor}, svg, brief(value));
      }
      for (const {x, y, colour, kind} of lines) {
        const few = x.length < 3;
        if (!few) {
          const path = x.map((each, i) => `${i ? "L" : "M"}${across(each).toFixed(1)} ${up(y[i]).toFixed(1)}`).join("");
          element("path", {class: `k${colour} ${kind}`, d: path}, svg);
        }
        if (kind === "dots" || few) {
          x.forEach((each, i) => element("circle", {class: `k${colour}`, cx: across(each), cy: up(y[i]), r: 2.5}, svg));
        }
      }
      cursor = element("line", {class: "cursor", y1: top, y2: height - bottom}, svg);
      show(at);
    };

    // Beside each name the value nearest to a moment, a dash before and after its line; of no moment the last one.
    const show = (x) => {
      at = x;
      const here = x === null ? every[every.length - 1] : every[nearest(every, x)];
      place.textContent = `${count.format(here)} ${unit}`;
      lines.forEach(({x: xs, y: ys}, i) => {
        const outside = x !== null && (here < xs[0] || here > xs[xs.length - 1]);
        values[i].textContent = outside ? "–" : four(x === null ? ys[ys.length - 1] : ys[nearest(xs, here)]);
      });
      cursor.setAttribute("x1", across(here));
      cursor.setAttribute("x2", across(here));
      cursor.style.visibility = x === null ? "hidden" : "visible";
    };
    const tell = () => document.dispatchEvent(new CustomEvent("moment", {detail: {unit, at, from: figure}}));

    svg.addEventListener("pointermove", (event) => show(back(event.clientX - svg.getBoundingClientRect().left)));
    svg.addEventListener("click", tell);
    svg.addEventListener("keydown", (event) => {
      const here = at === null ? every.length - 1 : nearest(every, at);
      const step = event.shiftKey ? Math.ceil(every.length / 20) : 1;
      const to = {ArrowLeft: here - step, ArrowRight: here + step, Home: 0, End: every.length - 1}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(every[Math.max(0, Math.min(every.length - 1, to))]);
      tell();
    });
    document.addEventListener("moment", ({detail}) => {
      if (detail.from !== figure && detail.unit === unit) show(detail.at);
    });
    new ResizeObserver(() => { if (figure.clientWidth !== +svg.getAttribute("viewBox")?.split(" ")[2]) render(); }).observe(figure);
    render();
  };

  document.querySelectorAll("figure.chart").forEach(draw);
})();
