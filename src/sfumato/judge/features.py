"""Features: what pictures are compared by, from a network trained on the data itself, a published one, or one's own.

features("own", plan) -> Features,    extract(features, pictures, codec) -> (N, D),    reference(features, plan) -> (N, D)
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .. import draws
from ..data import AffineCodec, Images
from ..disk import cache_folder, whole_file
from ..errors import UserError, unknown
from ..interop import weights as files
from ..plan import Plan
from ..training.augment import cut, offsets
from ..training.device import device_named
from ..training.ema import fill, tensors
from .networks import PUBLISHED, own

VERSION = 1  # of what is done to pictures before a published network sees them

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Features:
    """A network that turns pictures x (B, C, H, W) in [-1, 1] into vectors (B, D), or maps (B, D, h, w) that are averaged."""

    name: str  # kind, version and a hash of the weights: equal names mean equal features
    size: int  # D
    net: nn.Module
    about: str  # what it is and how good, in a sentence
    path: Path | None = None  # the file with its weights
    accuracy: float | None = None  # of the own kind, on held-out pictures; None if there are none
    batch: int = 32  # pictures at once unless said

    @property
    def kept(self) -> bool:
        """May what it makes of pictures be kept? Not where its name does not tell how it computes."""
        return self.path is not None


def features(
    named: str | nn.Module, plan: Plan, device: str | None = None, progress: Progress = lambda done, total: None
) -> Features:
    """The features that a person named, for the pictures of a plan.

    named     "own", trained on the plan's pictures and kept in the cache folder, found there if it was trained before;
              "inception:FILE", the FID network; "dinov2:FILE", S/14, B/14 or L/14; or a module x (B, C, H, W) in [-1, 1]
              -> (B, D) or (B, D, h, w), which is put into evaluation mode
    progress  (done, total), in pictures that training has seen
    Raises UserError for what is no such name, file or module, and for pictures that the network cannot take.
    """
    channels = plan.facts.shape[0]
    if isinstance(named, nn.Module):
        return _module(named, plan.facts.shape)
    kind, _, file = named.partition(":")
    if kind == "own" and not file:
        return _own(plan, device, progress)
    if kind not in PUBLISHED or not file:
        raise unknown("feature network", named, ("own", *(f"{kind}:FILE" for kind in PUBLISHED)))
    if channels not in (1, 3):
        raise UserError(
            f"{kind} was made for gray and colour pictures, and these have {channels} channels; "
            "use features that are trained on them: own."
        )
    weights = files.read(Path(file))
    try:
        net = PUBLISHED[kind](weights)
    except ValueError as error:
        raise UserError(f"Expected in {file} {error}.") from None
    net.eval().requires_grad_(False)
    size = _size(net, plan.facts.shape)
    return Features(f"{kind}-{VERSION}-{_digest(weights)}", size, net, f"{kind}, {size} features from {file}.", Path(file))


def extract(
    features: Features,
    pictures: np.ndarray,
    codec: AffineCodec,
    device: str | None = None,
    batch: int | None = None,
    progress: Progress = lambda done, total: None,
) -> np.ndarray:
    """The features (N, D) float32 of pictures (N, H, W, C) as they are stored, in uint8, uint16 or float32.

    codec     the run's, whose range becomes [-1, 1] whatever the run takes it to
    batch     pictures at once; it changes the features by rounding alone
    progress  (done, total), in pictures
    Raises UserError if shapes do not fit or features are not finite.
    """
    if pictures.ndim != 4 or pictures.shape[-1] != len(codec.low):
        raise UserError(f"Expected pictures (N, H, W, C) of {len(codec.low)} channels; found an array {pictures.shape}.")
    step = batch or features.batch
    parts = (pictures[start : start + step] for start in range(0, len(pictures), step))
    stored = (torch.from_numpy(np.array(part.transpose(0, 3, 1, 2), order="C")) for part in parts)
    return _extract(features, stored, len(pictures), codec, device, progress)


def reference(
    features: Features,
    plan: Plan,
    held_out: bool = False,
    n: int | None = None,
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> np.ndarray:
    """The features (M, D) of a plan's pictures to train on, or of those held out: n of them, all if there are fewer.

    They are those at `chosen(images, n)`, in that order; with `crop`, windows of them. They are kept in the cache folder, but
    for a module of one's own.
    """
    images, crop = plan.held_out if held_out else plan.train, plan.config.crop
    codec = plan.codec
    positions = chosen(images, n)

    def stored(part: Tensor) -> Tensor:
        found = images.batch(part)["image"]
        return cut(found, offsets(0, part, images.shape, crop), crop) if crop else found

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts = (stored(part) for part in positions.split(features.batch))
        return {"features": torch.from_numpy(_extract(features, parts, len(positions), codec, device, progress))}, {}

    if not features.kept:
        return make()[0]["features"].numpy()
    key = _key(features.name, images.fingerprint, _centred(codec), crop, len(positions))
    return _kept(f"reference-{key}", make)[0]["features"].numpy()


def chosen(images: Images, n: int | None = None) -> Tensor:
    """Positions (M,) of n pictures in a shuffled order that is always the same; of all if there are fewer."""
    count = len(images) if n is None else min(n, len(images))
    if not count:
        raise UserError("Features are compared with those of pictures, and there are none; hold some out of training.")
    return draws.shuffle(0, "reference", torch.arange(count), len(images))


# ---- kinds -----------------------------------------------------------------------------------------------------------


def _own(plan: Plan, device: str | None, progress: Progress) -> Features:
    codec, crop = _centred(plan.codec), plan.config.crop

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        net, facts = own.train(plan.train, plan.held_out, codec, crop, device_named(device), progress)
        return tensors(net), facts

    key = _key(own.VERSION, plan.train.fingerprint, plan.held_out.fingerprint, codec, crop)
    weights, facts, path = _kept(f"own-{key}", make)
    with torch.device("meta"):  # numbers that are replaced at once need not be drawn
        net = own.Network(plan.facts.shape).to_empty(device="cpu")
    fill(net, weights)
    name = f"own-{own.VERSION}-{_digest(weights)}"
    return Features(name, own.SIZE, net.eval().requires_grad_(False), own.sentence(facts), path, facts["accuracy"], 256)


def _module(net: nn.Module, shape: tuple[int, int, int]) -> Features:
    kind = type(net).__name__
    size = _size(net.eval(), shape)
    return Features(f"{kind}-{_digest(net.state_dict())}", size, net, f"{kind}, {size} features of a module of your own.")


def _size(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many features a network makes of a picture (C, H, W); raises UserError if they are no vectors."""
    device = next((tensor.device for tensor in net.state_dict().values()), None)
    with torch.no_grad():
        found = net(torch.zeros(2, *shape, device=device))
    if not isinstance(found, Tensor) or found.ndim not in (2, 4) or len(found) != 2:
        shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"A feature network makes (B, D) or (B, D, h, w) of (B, C, H, W); of {(2, *shape)} this makes {shown}.")
    return found.shape[1]


# ---- work ------------------------------------------------------------------------------------------------------------


def _centred(codec: AffineCodec) -> AffineCodec:
    return dataclasses.replace(codec, ends=(-1.0, 1.0))


@torch.no_grad()
def _extract(
    features: Features, stored: Iterable[Tensor], total: int, codec: AffineCodec, device: str | None, progress: Progress
) -> np.ndarray:
    """The features (N, D) of pictures (B, C, H, W) that come in parts."""
    place, codec = device_named(device), _centred(codec)
    net, out = features.net.to(place), np.empty((total, features.size), np.float32)
    done = 0
    for part in stored:
        found = net(codec.encode(part.to(place)))
        found = found.mean((2, 3)) if found.ndim == 4 else found
        out[done : done + len(part)] = found.float().cpu().numpy()
        done += len(part)
        progress(done, total)
    if not np.isfinite(out).all():
        raise UserError(f"{features.name} makes features of these pictures that are NaN or infinite; are the pictures finite?")
    return out


# ---- what is kept ----------------------------------------------------------------------------------------------------


def _kept(
    name: str, make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]
) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """Tensors and facts of that name from the cache folder, made and kept there unless they lie there whole; and where."""
    path = cache_folder() / "features" / f"{name}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError, TypeError, ValueError), safe_open(path, "pt") as file:
        told = file.metadata()
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dict
        if told["digest"] == _digest(found, told["facts"]):
            return found, json.loads(told["facts"]), path
    made, facts = make()
    made, text = {key: tensor.cpu().contiguous() for key, tensor in made.items()}, json.dumps(facts)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the work again next time, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as out:
            out.write(save(made, {"facts": text, "digest": _digest(made, text)}))
    return made, facts, path


def _digest(found: Mapping[str, Tensor], text: str = "") -> str:
    """16 hexadecimal digits that change with any name, shape, type or value, and with the text."""
    whole = hashlib.blake2b(text.encode(), digest_size=8)
    for name, tensor in sorted(found.items()):
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _key(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
