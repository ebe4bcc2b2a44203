"""Going on from another run: its network, and how that is read, on other pictures or on one class of the same."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor

from .built import net_of
from .config import BUDGET, Config, Facts, Settled
from .data import Images
from .errors import UserError, unknown
from .run import Run
from .training import checkpoint

KEPT = ("net", "schedule", "shift", "predict", "c_noise", "range", "variance_weight")  # what the weights were made for
EPOCHS = 10.0  # unless a budget is named


@dataclass(frozen=True)
class Parent:
    """A trained run that another begins from."""

    run: Run
    config: Settled  # its network said in full

    @classmethod
    def of(cls, path: "str | Path | Run") -> "Parent":
        """Raises UserError if there is no trained run at `path`."""
        run = Run.existing(path)
        config = run.config()
        if config.facts is None or not checkpoint.listed(run.checkpoints):
            raise UserError(f"{run.path} has no checkpoint yet to go on from; let `sfumato train` save one first.")
        if config.net.name != "mine":
            config = msgspec.structs.replace(config, net=net_of(config, config.facts))
        return cls(run, config)

    @property
    def facts(self) -> Facts:
        assert self.config.facts is not None
        return self.config.facts

    def default(self, recipe: Config | None) -> Config:
        """The settings that a run begins with which goes on from this one: a recipe's, or else this run's own."""
        kept = {name: getattr(self.config, name) for name in KEPT}
        if recipe is not None:
            return msgspec.structs.replace(recipe, channels=None, **kept)
        cleared = dict.fromkeys((*BUDGET, "facts", "channels", "warmup", "ema", "log_every"))
        return msgspec.structs.replace(self.config, **(cleared | {"epochs": EPOCHS}))

    def refuse_other(self, config: Config, images: Images) -> None:
        """Raise UserError for a config that the weights are not made for, and for pictures of other channels."""
        for name in KEPT:
            if getattr(config, name) != getattr(self.config, name):
                raise UserError(
                    f"{name} is {getattr(self.config, name)} in {self.run.path}, whose weights are gone on from; found "
                    f"{getattr(config, name)}. Leave it out, or train without --from."
                )
        count, found = self.facts.shape[0], images.shape[0]
        if count != found:
            convert = f" Give --channels {count} to convert them." if {count, found} == {1, 3} else ""
            raise UserError(
                f"{self.run.path} was trained on pictures of {count} channel{'s' * (count > 1)}; these have {found}.{convert}"
            )

    def weights(self) -> tuple[dict[str, Tensor], int]:
        """The averaged weights by name, and how many images they had seen."""
        saved = checkpoint.newest(self.run.checkpoints, ("ema",))
        assert saved is not None
        return saved.tensors["ema"], saved.state["images"]

    def facts_of(self, found: Facts, dtype: str) -> Facts:
        """Facts of new pictures, read as this run's network was taught to read pictures of the same type."""
        codec = self.facts.codec if self.facts.codec["dtype"] == dtype else found.codec
        return msgspec.structs.replace(found, codec=codec, sigma_data=self.facts.sigma_data, start=str(self.run.path))

    def told(self, images: Images) -> tuple[Images, str]:
        """The pictures with their labels as the network knows them, or without; and the sentence that says so, or nothing."""
        names = self.facts.label_names if self.config.net.kw.get("classes") else None
        if images.label_names == names:
            return images, ""
        strange = [name for name in images.label_names or () if name not in (names or ())]
        if names is None or images.label_names is None or strange:
            given = "" if names is None else f", for it knows {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
            found = "The pictures have no labels to tell" if images.label_names is None else "Labels are not told"
            return with_labels(images, None, names), f"{found} the network{given}." if names or strange else ""
        table = np.array([*(names.index(name) for name in images.label_names), len(names)])  # the last: not told
        return with_labels(images, table[every(images.labels)], names), ""


def only(images: Images, classes: str) -> Images:
    """The pictures of the classes named, as in 'ship,truck'; raises UserError for one that there is not."""
    if images.labels is None or images.label_names is None:
        raise UserError("--only-class needs pictures with classes: class folders, or a manifest with labels.")
    chosen = []
    for name in classes.split(","):
        if name.strip() not in images.label_names:
            raise unknown("class", name.strip(), images.label_names)
        chosen.append(images.label_names.index(name.strip()))
    return images.subset(np.flatnonzero(np.isin(every(images.labels), chosen)))


def with_labels(images: Images, labels: np.ndarray | None, names: tuple[str, ...] | None) -> Images:
    """The same pictures with other labels (N,), or none."""
    other = images.subset(np.arange(len(images)))
    other.labels, other.label_names = labels, names
    return other


def every(labels: np.ndarray | None) -> np.ndarray:
    """All labels at once, from a list that may be lazy."""
    assert labels is not None
    return np.asarray(labels[np.arange(len(labels))])
