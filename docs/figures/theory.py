"""All figures of docs/theory.md: python docs/figures/theory.py docs/theory"""

import io
import math
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from sfumato import draws, picture, samplers, schedules, toy
from sfumato.denoisers import posterior
from sfumato.losses import WEIGHTS
from sfumato.nets.blocks import sinusoidal

VALUES = torch.linspace(-2.6, 2.6, 400, dtype=torch.float64)  # the axis of the one-dimensional toy
BLUE, ORANGE, GREEN = "#2f6db3", "#d1762a", "#3f8f4f"


def save(image: Image.Image | Figure, path: Path) -> None:
    """Plots get a palette, which keeps the page small."""
    if isinstance(image, Figure):
        buffer = io.BytesIO()
        image.savefig(buffer, dpi=110)
        image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def pictures(x: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> (N, H, W, C), saturated."""
    return picture.to_uint8(x.permute(0, 2, 3, 1).numpy())


def stacked(rows: list[Image.Image]) -> Image.Image:
    width, height = max(row.width for row in rows), sum(row.height for row in rows)
    page, top = Image.new("RGB", (width, height), (picture.grids.PAPER,) * 3), 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    return page


def digits() -> torch.Tensor:
    """The 1,797 digits of scikit-learn, (N, 1, 8, 8) in [-1, 1]."""
    return torch.from_numpy(load_digits().images / 8 - 1)[:, None]


def flower() -> torch.Tensor:
    """The photograph flower.jpg of scikit-learn (by vultilion, CC BY 2.0), brought to 64 x 64: (1, 3, 64, 64) in [-1, 1]."""
    square = Image.fromarray(load_sample_image("flower.jpg")).crop((130, 0, 557, 427)).resize((64, 64), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(square) / 127.5 - 1).permute(2, 0, 1)[None]


def forward() -> Image.Image:
    """A digit and a photograph under the same published noise, and the photograph under the mended one."""
    published, mended = (schedules.linear(steps=300, mended=m) for m in (False, True))
    steps, rows = [0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300], []
    for schedule, x0 in ((published, digits()[:1]), (published, flower()), (mended, flower())):
        eps = draws.normal(draws.keys(0, "forward", [0]), x0.shape[1:], torch.float64)  # the same noise, growing
        states = torch.cat([schedules.diffuse(schedule, x0, i / 300, eps) for i in steps])
        captions = [f"{i}: {schedule(i / 300)[0].item():.3f}" for i in steps]
        rows.append(picture.strip(pictures(states), captions, scale=64 // x0.shape[-1]))
    return stacked(rows)


def curves() -> Figure:
    """alpha of linear betas for several T; the log-SNR of all schedules."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    for steps, shade in ((200, 0.95), (300, 0.75), (600, 0.5), (1000, 0.3)):
        left.plot(t, schedules.linear(steps=steps)(t)[0], color=(0.1, 0.3, 0.6, shade), label=f"linear, T = {steps}")
    left.plot(t, schedules.linear(steps=200, mended=True)(t)[0], color=ORANGE, ls="--", label="linear, T = 200, mended")
    left.plot(t, schedules.cosine()(t)[0], color=GREEN, label="cosine")
    left.set(xlabel="t = i / T", ylabel=r"$\alpha_t = \sqrt{\bar\alpha_i}$", title="What is left of the picture", xlim=(0, 1))
    t = torch.linspace(0.001, 0.9995, 600, dtype=torch.float64)
    rows = {"linear, T = 300": schedules.linear(steps=300), "linear, mended": schedules.linear(steps=300, mended=True)}
    for name in ("cosine", "sigmoid", "flow", "laplace", "edm"):
        rows[name] = schedules.SCHEDULES[name]()
    for name, schedule in rows.items():
        right.plot(t, schedule.log_snr(t), label=name, lw=1.2)
    right.axhline(0, color="#999999", lw=0.6)
    right.set(
        xlabel="t", ylabel=r"$\log\,\alpha_t^2/\sigma_t^2$", title="Log signal-to-noise ratio", ylim=(-12, 12), xlim=(0, 1)
    )
    for panel in (left, right):
        panel.legend(fontsize=8)
    return figure


def product() -> Figure:
    """q(x_s | x_t, x0) as a product of two Gaussians: curves by formula, dots by multiplying."""
    schedule, x0, x_t = schedules.linear(steps=300, mended=True), 1.0, -0.2
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for panel, (t, s) in zip(figure.subplots(1, 2), ((0.6, 0.4), (0.6, 0.56)), strict=True):
        t, s = round(t * 300) / 300, round(s * 300) / 300
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ([c.item() for c in schedule(u)] for u in (t, s))
        keep = alpha_t / alpha_s
        a, b, v, _ = (c.item() for c in posterior(schedule, *torch.tensor((t, s), dtype=torch.float64)))
        x = torch.linspace(-3, 3, 1201, dtype=torch.float64)
        bell = lambda mean, std, x=x: torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        prior, told = bell(alpha_s * x0, sigma_s), bell(x_t / keep, math.sqrt(sigma_t**2 - (keep * sigma_s) ** 2) / keep)
        panel.plot(x, prior, color=GREEN, label=r"$q(x_s\mid x_0)$: where $x_0$ sends it")
        panel.plot(x, told, color=ORANGE, label=r"$q(x_t\mid x_s)$ as a function of $x_s$")
        panel.plot(x, bell(a * x_t + b * x0, math.sqrt(v)), color=BLUE, label=r"$\mathcal{N}(a\,x_t+b\,x_0,\ v)$")
        both = prior * told
        both /= both.sum() * (x[1] - x[0])
        panel.plot(x[::20], both[::20], "o", color="black", ms=2.5, label="the product, normalised")
        panel.axvline(x_t, color="#999999", lw=0.6, ls=":")
        panel.text(x_t - 0.05, 0.92, r"$x_t$", ha="right", color="#666666", transform=panel.get_xaxis_transform())
        panel.set(xlabel=r"$x_s$", ylabel="density", xlim=(-2.6, 2.6), title=f"t = {t:.2f}, s = {s:.2f}")
        panel.set_ylim(0, 1.5 * panel.get_ylim()[1])  # room for the legend
    panel.legend(fontsize=8, loc="upper right")
    return figure


def codes() -> Figure:
    """The sinusoidal codes of all steps, and how alike two are."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    code = sinusoidal(torch.arange(300), 32)  # (300, 32)
    shown = left.imshow(code.T, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    left.set(xlabel="step", ylabel="column: 16 sines, 16 cosines", title="sinusoidal(step, 32)")
    figure.colorbar(shown, ax=left)
    for width, colour in ((32, BLUE), (128, ORANGE)):
        code = sinusoidal(torch.arange(300), width).double()
        alike = code @ code[100] / (width // 2)  # every code has the squared length width / 2
        right.plot(torch.arange(300) - 100, alike, color=colour, label=f"width {width}")
    right.set(xlabel="step - 100", ylabel="cosine similarity", title="With the code of step 100", ylim=(0, 1.05))
    right.legend(fontsize=8)
    return figure


def share_of_loss(schedule: schedules.Schedule, times: str, weight: str, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Density of log-SNR in training, times weight, times the error left for data N(0, 0.25); the largest is 1."""
    u = torch.special.ndtr(torch.linspace(-7, 7, points, dtype=torch.float64))  # dense at both ends
    log_snr = schedule.log_snr(schedules.DENSITIES[times](schedule, u))
    inside = (log_snr.diff() != 0) & (log_snr[1:] > -10) & (log_snr[1:] < 10)
    density, middle = (u.diff() / log_snr.diff()).abs()[inside], ((log_snr[1:] + log_snr[:-1]) / 2)[inside]
    found = density * WEIGHTS[weight](middle, 0.5).exp() * left_over(middle)
    return middle.numpy(), (found / found.max()).numpy()


def left_over(log_snr: torch.Tensor) -> torch.Tensor:
    """E |x0_hat - x0|^2 of the exact denoiser of N(0, sd^2), sd = 0.5: sd^2 / (1 + sd^2 snr)."""
    return 0.25 / (1 + 0.25 * log_snr.exp())


def weights(points: int) -> Figure:
    """The weights as they are stated, and what each objective attends to."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    log_snr = torch.linspace(-10, 10, 201, dtype=torch.float64)
    for name in ("simple", "image", "v", "flow", "edm", "min_snr"):
        left.semilogy(log_snr, WEIGHTS[name](log_snr, 0.5).exp(), label=name, lw=1.2, ls="--" if name == "min_snr" else "-")
    schedule = schedules.linear(steps=1000)
    t, s = (torch.arange(k, 1000 + k, dtype=torch.float64)[1:] / 1000 for k in (1, 0))
    bound = (schedule.log_snr(s).exp() - schedule.log_snr(t).exp()) / 2
    left.semilogy(schedule.log_snr(t), bound, color="black", ls=":", label="the bound, T = 1000")
    left.set(
        xlabel=r"$\log\,\mathrm{snr}$",
        ylabel=r"weight on $\|\hat x_0-x_0\|^2$",
        title="Weights",
        xlim=(-10, 10),
        ylim=(1e-5, 1e5),
    )
    right.plot(log_snr, log_snr.exp() * left_over(log_snr), color="black", ls=":", label="the bound")
    for name, (at, times, weight) in {
        "linear T = 1000, uniform, simple": (schedule, "uniform", "simple"),
        "cosine, uniform, simple": (schedules.cosine(), "uniform", "simple"),
        "cosine, uniform, min_snr": (schedules.cosine(), "uniform", "min_snr"),
        "flow, uniform, flow": (schedules.flow(), "uniform", "flow"),
        "edm, log_normal, edm": (schedules.edm(), "log_normal", "edm"),
    }.items():
        right.plot(*share_of_loss(at, times, weight, points), label=name, lw=1.2)
    right.set(xlabel=r"$\log\,\mathrm{snr}$", ylabel="share of the loss, largest = 1", title="Where the loss comes from",
              xlim=(-10, 10), ylim=(0, 1.55))  # fmt: skip
    for panel in (left, right):
        panel.legend(fontsize=7.5, loc="upper left", ncols=1 + (panel is left))
    return figure


def mixture(schedule: schedules.Schedule) -> toy.Mixture:
    """Three bells on a line, of mean 0 and variance near 1."""
    means, stds = torch.tensor([[-1.3], [0.3], [1.4]]), torch.tensor([0.12, 0.2, 0.12])
    return toy.Mixture(schedule, torch.tensor([0.4, 0.3, 0.3]), means, stds)


def trajectories(steps: int) -> Figure:
    """The density of x_t over time, with paths of the forward chain, the ancestral sampler and the ODE."""
    schedule = schedules.linear(steps=300, beta_end=0.03)  # even in its noise, so that paths look alike everywhere
    denoise = mixture(schedule)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    density = torch.stack([denoise.log_prob(VALUES[:, None], t.item()) for t in times], 1).exp()  # (values, times)
    start = torch.special.ndtri((torch.arange(9, dtype=torch.float64)[:, None] + 0.5) / 9)  # (9, 1), evenly spread
    paths = {}
    x = denoise.draw(9, seed=1)
    chain = [x]
    for i, (t, s) in enumerate(zip(times.flip(0)[:-1].tolist(), times.flip(0)[1:].tolist(), strict=True)):
        fresh = draws.normal(draws.keys(1, "chain", range(9), i), (1,), torch.float64)
        x = samplers.renoise(schedule, x, t, s, lambda fresh=fresh: fresh)
        chain.append(x)
    paths["the forward chain, left to right"] = chain[::-1]
    for title, solver in (("ddpm, right to left", "ddpm"), ("the ODE, right to left", "heun")):
        found = paths[title] = [start]
        samplers.sample(denoise, start, solver, times=times, callback=lambda i, t, x, x0, found=found: found.append(x))
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    for panel, (title, path) in zip(figure.subplots(1, 3, sharey=True), paths.items(), strict=True):
        panel.pcolormesh(times, VALUES, density.sqrt(), cmap="Greys", vmin=0, vmax=1.9, rasterized=True)
        panel.plot(times, torch.cat(path, 1).T, lw=0.9)
        panel.set(xlabel="t", title=title, ylim=(-2.6, 2.6), xlim=(0, 1))
    figure.axes[0].set_ylabel(r"$x_t$")
    return figure


def guesses(steps: int) -> Image.Image:
    """A digit on its way from noise, and below it the guess of an exact denoiser at each stage."""
    schedule = schedules.linear(steps=300, mended=True)
    seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []
    x = draws.normal(draws.keys(4, "start", [0]), (1, 8, 8), torch.float64)
    denoise = toy.images(schedule, digits())
    samplers.sample(denoise, x, "ddpm", steps, callback=lambda i, t, x, x0: seen.append((t, x, x0)))
    chosen = [*(round(k * steps / 10) for k in range(10)), steps - 1]
    before = [(x if i == 0 else seen[i - 1][1]) for i in chosen]  # what the guess was made from
    captions = [f"step {round(seen[i][0] * 300)}" for i in chosen]
    return stacked([
        picture.strip(pictures(torch.cat(before)), scale=8),
        picture.strip(pictures(torch.cat([seen[i][2] for i in chosen])), captions, scale=8),
    ])  # fmt: skip


def shapes() -> Figure:
    """simple_unet at 64 pixels: boxes as high as their pictures, as wide as the logarithm of their channels."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    panel = figure.subplots()
    path = [(3, 64), (64, 64), (128, 32), (256, 16), (512, 8), (1024, 4), (512, 8), (256, 16), (128, 32), (64, 64), (3, 64)]
    places, at = [], 0.0
    for i, (channels, side) in enumerate(path):
        width = 2 + 2.2 * math.log2(channels)
        places.append((at, width, side))
        panel.bar(at, side, width, -side / 2, align="edge", color=BLUE if i < 6 else ORANGE, alpha=0.6)
        panel.text(at + width / 2, -side / 2 - 2, f"{channels}\n{side} x {side}", ha="center", va="top", fontsize=8)
        at += width + 12
    arrow = {"arrowstyle": "->", "color": "#555555", "ls": "--"}
    for k in range(2, 5):  # the state of a down block joins the input of the same size on the way up
        (x1, w1, side), (x2, _, _) = places[k], places[10 - k]
        panel.annotate("", (x2, side / 2 - 1), (x1 + w1, side / 2 - 1), arrowprops=arrow)
    panel.text(at / 2 - 6, 19, "states of the way down, joined as channels", ha="center", fontsize=9, color="#555555")
    panel.set(xlim=(-6, at - 6), ylim=(-44, 34))
    panel.axis("off")
    return figure


def main(folder: str | Path, detail: float = 1.0) -> None:
    """Write them all; `detail` below 1 takes fewer steps and points."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save(forward(), folder / "forward.png")
    save(curves(), folder / "schedules.png")
    save(product(), folder / "posterior.png")
    save(weights(round(2000 * detail)), folder / "weights.png")
    save(codes(), folder / "codes.png")
    save(shapes(), folder / "shapes.png")
    save(trajectories(round(300 * detail)), folder / "trajectories.png")
    save(guesses(round(300 * detail)), folder / "guesses.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
