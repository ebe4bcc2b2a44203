"use strict";
// The slider over the grids. The address names where it stands, as in report.html#images=20000; without, it is the newest.
(() => {
  const timeline = document.querySelector(".timeline");
  if (!timeline) return;
  const grids = [...timeline.querySelectorAll("img")];
  const moments = grids.map((grid) => +grid.dataset.images);
  const slider = timeline.querySelector("input");
  const said = timeline.querySelector("output");
  const play = timeline.querySelector("button");
  const last = grids.length - 1;
  let playing = null;

  const show = (number, from = null) => {
    grids.forEach((grid, i) => { grid.hidden = i !== number; });
    slider.value = number;
    said.textContent = `${new Intl.NumberFormat("en").format(moments[number])} images`;
    slider.setAttribute("aria-valuetext", said.textContent);
    history.replaceState(null, "", number === last ? location.pathname + location.search : `#images=${moments[number]}`);
    const at = number === last ? null : moments[number];
    if (from === null) document.dispatchEvent(new CustomEvent("moment", {detail: {unit: "images seen", at, from: timeline}}));
  };
  const closest = (images) => {
    const distance = (i) => Math.abs(moments[i] - images);
    return moments.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), last);
  };
  const stop = () => { clearInterval(playing); playing = null; play.textContent = "Play"; };
  const named = () => {
    const images = /^#images=(\d+)$/.exec(location.hash);
    show(images ? closest(+images[1]) : last);
  };

  slider.addEventListener("input", () => { stop(); show(+slider.value); });
  play.addEventListener("click", () => {
    if (playing) { stop(); return; }
    let next = +slider.value === last ? 0 : +slider.value;
    play.textContent = "Stop";
    playing = setInterval(() => { show(next); if (next++ === last) stop(); }, 400);
  });
  document.addEventListener("moment", ({detail}) => {
    if (detail.from !== timeline && detail.unit === "images seen") { stop(); show(closest(detail.at), detail.from); }
  });
  addEventListener("hashchange", named);
  named();

  // What is still being trained has news: who looks at the newest grid sees the next one when it is there.
  if (document.body.querySelector("[data-unfinished]")) {
    setInterval(() => { if (!location.hash && !playing && !document.hidden) location.reload(); }, 60000);
  }
})();
