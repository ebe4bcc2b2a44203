"""Make a run of weights that were published as a file: a state_dict saved by torch, or safetensors."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .. import flags
from ..config import Ends, Size
from ..errors import UserError
from ..interop import import_weights
from ..spec import Spec


@dataclasses.dataclass
class Arguments:
    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE")] = None
    """A state_dict (.pt, .pth), a checkpoint that holds one, .safetensors, or diffusers' own of a UNet2DModel."""
    net: Annotated[Spec | None, flags.CHOICE] = None
    """One of the published networks, with options if need be; guessed from the names in the file unless said."""
    run: Path | None = None
    """The run folder; runs/ and the file's name unless said."""
    schedule: Annotated[Spec | None, flags.CHOICE] = None
    """The noise schedule it was trained with; that of the published account unless said."""
    size: Size = None
    """Height and width of the pictures it was trained on; as in the account unless said."""
    predict: str = "noise"
    """What the network predicts: noise, image, v, flow or edm."""
    range: Ends = None
    """Values of black and white in training, as in 0,1 or -1,1; as in the account unless said."""


def main(arguments: list[str]) -> int:
    args = flags.parse(Arguments(), arguments, "sfumato import", __doc__ or "")
    if args.file is None:
        raise UserError("Expected a file of weights, as in sfumato import weights.pt; none was named.")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    run = args.run or Path("runs") / args.file.stem
    config = import_weights(args.file, run, args.net, args.schedule, args.size, args.predict, args.range)
    assert config.facts is not None
    channels, height, width = config.facts.shape
    low, high = config.facts.codec["ends"]
    console.print(
        f"{config.net} for {height}x{width}x{channels} pictures in [{low:g}, {high:g}]; "
        f"it predicts {config.predict} on the schedule {config.schedule}."
    )
    console.print(f"{run}: draw from it with sfumato sample {run}")
    return 0
