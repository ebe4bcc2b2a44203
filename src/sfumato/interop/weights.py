"""A file of published weights -> a run folder that `sfumato sample` and `sfumato.load` can use."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .. import nets
from ..config import Facts, Settled, build_schedule, checked
from ..data import AffineCodec
from ..errors import UserError, unknown
from ..run import Run
from ..spec import Spec, make
from ..training import checkpoint
from ..training.ema import tensors
from .diffusers import adopted

KEYS = ("state_dict", "model", "model_state_dict", "ema")  # where a checkpoint may keep its weights, in this order
PREFIXES = ("module.", "_orig_mod.")  # put before every name by DataParallel and by torch.compile


@dataclass(frozen=True)
class Account:
    """How a published network was trained, as far as its weights do not say: betas as they were, mended or not."""

    steps: int  # of linear betas
    size: int
    enter: str  # the weight that takes in the picture, which tells its channels
    ends: tuple[float, float] = (-1.0, 1.0)  # the range of its pictures


PUBLISHED = {
    "simple_unet": Account(300, 64, "conv0.weight"),
    "maxpool_unet": Account(600, 64, "first_level.conv1.weight"),
    "double_conv_unet": Account(1000, 32, "conv1.conv.0.weight", (0.0, 1.0)),
    "convnext_unet": Account(200, 28, "enter.weight"),
    "ddpm_cifar10": Account(1000, 32, "enter.weight"),
    "ddpm_256": Account(1000, 256, "enter.weight"),
    "ddpm_unet": Account(1000, 32, "enter.weight"),  # of other widths and levels, which have to be said
}


def import_weights(
    file: str | Path,
    run: str | Path,
    net: str | Spec | None = None,
    schedule: str | Spec | None = None,
    size: tuple[int, int] | None = None,
    predict: str = "noise",
    ends: tuple[float, float] | None = None,
) -> Settled:
    """Make a run folder of a state_dict (.pt, read without running code, or .safetensors); returns its Config.

    Weights of `ddpm_unet` may also stand under the names of diffusers' UNet2DModel.


    net        the network, as in "convnext_unet:dim=32"; guessed from the names in the file if there is only one it can be
    schedule   what it was trained with, and size, and ends, the range of its pictures: the account's own unless said
    Raises UserError, and writes nothing, if the file cannot be read, does not fit, or the folder is not new.
    """
    file, new = Path(file), Run.of(run)
    if new.path.is_file() or (new.path.is_dir() and any(new.path.iterdir())):
        raise UserError(f"Expected a new folder for the run, but {new.path} is there already; name another: --run NEW.")
    weights = adopted(read(file), file)
    spec = guess(weights, file) if net is None else Spec.of(net)
    if spec.name not in PUBLISHED:
        raise unknown("published network", spec.name, PUBLISHED)
    if spec.kw.get("classes"):
        raise UserError("A network that is told labels cannot be imported, for what they are called is not in its weights.")
    account, table = PUBLISHED[spec.name], weights.get("time_embed.weight", torch.empty(0))
    steps = account.steps
    if spec.name == "double_conv_unet" and table.ndim == 2 and len(table) != steps:
        steps = len(table)
        spec = Spec(spec.name, **{"steps": steps} | spec.kw)
    enter = weights.get(account.enter, torch.empty(0))
    channels = enter.shape[1] if enter.ndim == 4 else 3
    fitted = fit(weights, spec, channels, file)
    low, high = ends or account.ends
    codec = AffineCodec((0.0,) * channels, (255.0,) * channels, "uint8", (low, high))
    height, width = size or (account.size, account.size)
    facts = Facts(
        data=str(file),
        fingerprint="",
        train=0,
        held_out=0,
        shape=(channels, height, width),
        codec=asdict(codec),
        sigma_data=(high - low) / 4,  # not known; 0.5 is usual for pictures in [-1, 1]
    )
    config = checked(
        Settled(
            size=(height, width),
            channels=channels,
            net=spec,
            schedule=Spec.of(schedule or Spec("linear", steps=steps)),
            predict=predict,
            facts=facts,
        )
    )
    build_schedule(config)
    checkpoint.save(new.checkpoints, 0, {"model": fitted, "ema": fitted}, {})
    new.write_config(config)
    return new.config()


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: bare, or under one of KEYS, without the PREFIXES; raises UserError."""
    if not file.is_file():
        raise UserError(f"Expected a file of weights at {file}, found {'a folder' if file.is_dir() else 'nothing'}.")
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch warns of it then refuses
                content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no file of weights fails in every way there is
        if found := re.search(r"TorchScript|(?<=Unsupported global: GLOBAL )\S+", str(error)):
            raise UserError(
                f"{file} holds more than tensors ({found[0]}), and reading that could run code, so it is not read. "
                "Where it was made, save the weights alone: torch.save(net.state_dict(), 'weights.pt')."
            ) from None
        raise UserError(
            f"Expected weights in {file}, as torch.save(net.state_dict(), ...) or safetensors writes them; it cannot be read."
        ) from None
    for key in ("", *KEYS):
        inner = content if not key else content.get(key) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            return _stripped({str(name): value for name, value in inner.items()})
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    raise UserError(
        f"Expected weights in {file}, bare or under {', '.join(KEYS[:-1])} or {KEYS[-1]}; found {keys or 'nothing'}."
    )


def _stripped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def guess(weights: Mapping[str, Tensor], file: Path) -> Spec:
    """The published network whose names, with its usual options, are those in the file; raises UserError if none is."""
    for name in PUBLISHED:
        if _completed(weights, mine := expected(Spec(name), 3)).keys() == mine.keys():
            return Spec(name)
    near = best(weights)
    raise UserError(
        f"The names in {file} (the first is {next(iter(weights))}) are not quite those of a network here; say which it is "
        f"with --net NAME[:OPTIONS]: {', '.join(PUBLISHED)}." + (f" The nearest is {near}." if near else "")
    )


def best(weights: Mapping[str, Tensor]) -> str | None:
    """The published network that shares most names with a file, None if none shares any."""
    shared = {}
    for name in PUBLISHED:
        mine = expected(Spec(name), 3).keys()
        shared[name] = len(mine & weights.keys()) / len(mine | weights.keys())
    name = max(shared, key=lambda name: shared[name])
    return name if shared[name] else None


@cache
def expected(spec: Spec, channels: int) -> dict[str, Tensor]:
    """The tensors of a network by name, without their values."""
    with torch.device("meta"):
        return tensors(make(nets.NETS, spec, "network", channels))


def fit(weights: Mapping[str, Tensor], spec: Spec, channels: int, file: Path) -> dict[str, Tensor]:
    """The weights as the network holds them; raises UserError on other names or shapes."""
    mine = expected(spec, channels)
    near, weights = best(weights), _completed(weights, mine)
    missing, surplus = mine.keys() - weights.keys(), weights.keys() - mine.keys()
    options = f"Options of {spec.name} are {', '.join(sorted(nets.options(spec.name)))}."
    if missing or surplus:
        wrong = [f"{len(missing)} are missing ({_first(missing, mine)})"] if missing else []
        wrong += [f"{len(surplus)} are not its own ({_first(surplus, weights)})"] if surplus else []
        kind = lambda name: getattr(nets.NETS[name], "func", nets.NETS[name])  # of which some names are sizes
        same = near is not None and kind(near) is kind(spec.name)
        hint = options if same else f"They fit {near} best: --net {near}." if near else "They fit no network here."
        raise UserError(f"Expected the names of {spec} in {file}, but {' and '.join(wrong)}. {hint}")
    shapes = [name for name in mine if mine[name].shape != weights[name].shape]
    if shapes:
        there, here = (tuple(these[shapes[0]].shape) for these in (weights, mine))
        raise UserError(
            f"{len(shapes)} tensors in {file} have other shapes than in {spec}: {shapes[0]} is {there}, not {here}. {options}"
        )
    return weights


def _completed(weights: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the counters of BatchNorm, which old files lack and which only training reads."""
    counters = {name: torch.zeros((), dtype=torch.int64) for name in mine if name.endswith(".num_batches_tracked")}
    return counters | dict(weights)


def _first(names: set[str], order: Mapping[str, Tensor]) -> str:
    """Such as 'the first is conv0.weight'."""
    return f"the first is {next(name for name in order if name in names)}"
