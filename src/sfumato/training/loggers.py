"""Watchers that tell other programs: each line of the log and each grid goes to TensorBoard or to Weights & Biases."""

import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..disk import replace_text
from ..errors import UserError, unknown
from .loop import Event, Watcher


class TensorBoard:
    """Writes event files into a folder; a resumed run takes the place of what came after its checkpoint."""

    def __init__(self, folder: Path, config: dict[str, Any], grid_path: Callable[[int], Path]):
        self.folder, self.config, self.grid_path = folder, config, grid_path

    def __call__(self, event: Event) -> None:
        from torch.utils.tensorboard import SummaryWriter

        images = event.state.images
        if event.kind == "start":
            self.writer = SummaryWriter(str(self.folder), purge_step=images + 1)
            self.writer.add_text("config", f"```json\n{json.dumps(self.config, indent=2)}\n```", images)
        elif event.kind in ("log", "end"):
            for name, value in scalars(event).items():
                self.writer.add_scalar(name, value, images)
            if (grid := drawn(event, self.grid_path)) is not None:
                self.writer.add_image("samples", grid, images, dataformats="HWC")
        if event.kind == "end":
            self.writer.close()


class WandB:
    """Tells Weights & Biases; a resumed run goes on under its id, which is kept in the folder."""

    def __init__(self, folder: Path, config: dict[str, Any], grid_path: Callable[[int], Path]):
        self.folder, self.config, self.grid_path = folder, config, grid_path

    def __call__(self, event: Event) -> None:
        import wandb

        images, kept = event.state.images, self.folder / "id"
        if event.kind == "start":
            self.folder.mkdir(exist_ok=True)
            known = kept.read_text().strip() if kept.exists() else None
            place = self.folder.parent.resolve()
            self.run = wandb.init(project="sfumato", name=place.name, dir=place, config=self.config, id=known, resume="allow")
            replace_text(kept, self.run.id)
        elif event.kind in ("log", "end"):
            told: dict[str, Any] = scalars(event)
            if (grid := drawn(event, self.grid_path)) is not None:
                told["samples"] = wandb.Image(grid)
            if told:
                self.run.log(told, step=images)
        if event.kind == "end":
            self.run.finish()


LOGGERS: dict[str, Callable[..., Watcher]] = {"tensorboard": TensorBoard, "wandb": WandB}


def known(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once; raises UserError for one that is no logger, or whose package is not installed."""
    for name in (found := tuple(dict.fromkeys(names))):
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--log-to {name} needs the package {name}, which is not installed; type: pip install {name}")
    return found


def scalars(event: Event) -> dict[str, float]:
    """The numbers of a line of the log by name, those of the bands of noise as loss_bands/LOW..HIGH."""
    flat: dict[str, Any] = {}
    for name, value in (event.record or {}).items():
        flat |= {f"{name}/{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
    return {name: value for name, value in flat.items() if name != "images" and value is not None}


def drawn(event: Event, grid_path: Callable[[int], Path]) -> np.ndarray | None:
    """The grid (H, W, 3) that was drawn at this event, if one was."""
    path = grid_path(event.state.images)
    if not path.exists():
        return None
    with Image.open(path) as grid:
        return np.asarray(grid.convert("RGB"))
