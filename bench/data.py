"""What reading pictures costs: python bench/data.py [loading] [packing] [memory] [waiting] [opening]

Real pictures where ../shared/data has them, else pictures of noise. Everything is written to a temporary folder.
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _side_by_side import compare, heading
from PIL import Image

import sfumato
from sfumato import data
from sfumato.data import packed, views
from sfumato.training.device import Placement
from sfumato.training.stream import Stream

SHARED = Path(__file__).parents[2] / "shared" / "data"
CPU = Placement(torch.device("cpu"))


def pictures(folder: Path, zipped: str, count: int, shape: tuple[int, ...]) -> Path:
    """A folder of `count` image files: of a real set, or of noise where that is not here."""
    folder.mkdir(parents=True)
    if (SHARED / zipped).exists():
        with zipfile.ZipFile(SHARED / zipped) as file:
            names = [name for name in file.namelist() if name.endswith((".png", ".jpg"))]
            for k, name in enumerate(names[:: max(1, len(names) // count)][:count]):
                (folder / f"{k:06d}{Path(name).suffix}").write_bytes(file.read(name))
        return folder
    noise = np.random.default_rng(0)
    for k in range(count):
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{k:06d}.png")
    return folder


class Files(torch.utils.data.Dataset):
    """What tutorials write: open the file, maybe flip, to a tensor in [-1, 1]."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i]) as file:
            image = file.convert("RGB")
        if torch.rand(1).item() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
        return pixels


def stream_of(images: data.Images) -> Stream:
    return Stream(images, data.AffineCodec.fit(images), CPU, (), 0, flip=True)


def loading(root: Path) -> None:
    folder = pictures(root / "cifar", "cifar10.zip", 10_000, (32, 32, 3))
    stream = stream_of(data.gather(data.open_source(folder)))
    loader = torch.utils.data.DataLoader(Files(folder), 128, shuffle=True, num_workers=2, drop_last=True)
    batches, at = len(loader), 0

    def ours() -> None:
        nonlocal at
        for _ in range(batches):
            stream.batch(torch.arange(at, at + 128))
            at += 128

    found = compare({"cache": ours, "DataLoader": lambda: [batch.shape for batch in loader]}, rounds=5)
    rates = {name: batches * 128 / seconds for name, seconds in found.items()}
    print(f"32x32x3, batches of 128 with flips: {rates['cache']:,.0f} images/s from the cache,", end=" ")
    print(f"{rates['DataLoader']:,.0f} with a DataLoader of two workers: {rates['cache'] / rates['DataLoader']:.0f} times")

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
    array = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    stream, rates = stream_of(data.gather(data.open_source(array))), []
    for k in range(7):
        start = time.perf_counter()
        for b in range(400):
            stream.batch(torch.arange((400 * k + b) * 128, (400 * k + b + 1) * 128))
        rates.append(400 * 128 / (time.perf_counter() - start))
    print(f"28x28x1, one core, flips: {np.median(rates):,.0f} images/s (median of 7)")


def _decoded(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def _resized(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS))


def photographs(folder: Path) -> Path:
    """400 JPEG files of 1024x768, as cameras and telephones make them at the least."""
    small = pictures(folder / "small", "cars.zip", 400, (96, 128, 3))
    (folder / "large").mkdir()
    for path in small.iterdir():
        with Image.open(path) as file:
            large = file.convert("RGB").resize((1024, 768), Image.Resampling.BICUBIC)
        large.save(folder / "large" / f"{path.stem}.jpg", quality=90)
    return folder / "large"


def packing(root: Path) -> None:
    cases = {
        "PNG of 32x32": (pictures(root / "png", "cifar10.zip", 4000, (32, 32, 3)), None, _decoded),
        "JPEG of 128x96": (pictures(root / "jpeg", "cars.zip", 4000, (96, 128, 3)), 64, _resized),
        "JPEG of 1024x768": (photographs(root), 64, _resized),
    }
    for what, (folder, size, plain) in cases.items():
        paths, turn = sorted(folder.iterdir()), 0

        def ours(folder: Path = folder, size: int | None = size) -> None:
            nonlocal turn
            turn += 1
            os.environ["SFUMATO_CACHE"] = str(root / f"cache-{folder.name}-{turn}")
            data.gather(data.open_source(folder), size, 3)

        def pool(paths: list[Path] = paths, plain=plain) -> None:
            with ProcessPoolExecutor(2) as two:
                assert sum(1 for _ in two.map(plain, paths, chunksize=32)) == len(paths)

        found = compare({"ours": ours, "two processes": pool}, rounds=5)
        rates = {name: len(paths) / seconds for name, seconds in found.items()}
        print(f"packing {what} to {size or 'its own size'}: {rates['ours']:,.0f} images/s,", end=" ")
        print(f"two processes of Pillow {rates['two processes']:,.0f}: {rates['ours'] / rates['two processes']:.2f} times")


_REMEMBER = """
import sys, numpy as np, torch
from pathlib import Path
from sfumato import data
from sfumato.data import views
from sfumato.training.device import Placement
from sfumato.training.stream import Stream
images = views.load(Path(sys.argv[1]))
train, held, _ = data.split(images)
images.fingerprint, train.label_counts
stream = Stream(train, data.AffineCodec.fit(images), Placement(torch.device("cpu")), (), 0, flip=True)
for b in range(2000):
    stream.batch(torch.arange(b * 128, (b + 1) * 128))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def sparse(root: Path, count: int) -> Path:
    """The view of a pack of `count` pictures of 28x28 whose pixels are holes in the file."""
    pack = root / f"sparse-{count}"
    pack.mkdir()
    with open(packed.pixels_file(pack, "1-uint8"), "wb") as file:
        file.truncate(count * 784)
    hashes = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
    facts = {
        "labels": (np.arange(count) % 10).astype(np.uint8),
        "label_names": [str(k) for k in range(10)],
        "hashes": hashes,
        "ends": [[0.0], [255.0]],
    }
    return views.save(pack, "1-uint8.rows", (1, 28, 28), facts, [])


def memory(root: Path) -> None:
    found = {}
    for count in (10_000, 10_000_000):
        view = sparse(root, count)
        done = subprocess.run([sys.executable, "-c", _REMEMBER, str(view)], capture_output=True, text=True, check=True)
        found[count] = int(done.stdout) / 1024
        print(f"{count:,} pictures of 28x28, split and 2,000 batches drawn: {found[count]:.0f} MB resident")
    print(f"difference: {found[10_000_000] - found[10_000]:.0f} MB")


def waiting(root: Path) -> None:
    folder = pictures(root / "cars", "cars.zip", 400, (96, 128, 3))
    batches = {"simple_unet": 8, "maxpool_unet": 2, "double_conv_unet": 8, "convnext_unet": 16, "unet": 64}
    for name, batch in batches.items():
        config = {"net": name, "size": "64", "batch": batch, "steps": 6, "log_every": 2 * batch, "flip": True}
        model = sfumato.train(str(folder), root / name, quiet=True, precision="float32", **config)
        records = sfumato.run.Run(model.path).records()
        share = np.median([record["data_wait"] for record in records])
        print(f"{name}, 64 px, batch {batch}: {100 * share:.2f} % of the step is waiting for data")


def opening(root: Path) -> None:
    folder = root / "many"
    for k in range(10):
        (folder / f"class-{k}").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(100_000):
        Image.fromarray(noise.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"class-{i % 10}" / f"{i // 10}.png")
    for turn in ("first", "second", "third"):
        start = time.perf_counter()
        source = data.open_source(folder)
        opened = time.perf_counter()
        images = data.gather(source)
        print(f"100,000 files, {turn} time: opened in {opened - start:.2f} s, ready in {time.perf_counter() - start:.2f} s")
    print(images.shape, len(images))


def main() -> None:
    parts = {"loading": loading, "packing": packing, "memory": memory, "waiting": waiting, "opening": opening}
    print(heading())
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as root:
            os.environ["SFUMATO_CACHE"] = f"{root}/cache"
            parts[name](Path(root))


if __name__ == "__main__":
    main()
