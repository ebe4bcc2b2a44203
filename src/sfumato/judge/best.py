"""The best checkpoint by what it draws, not by its loss."""

from collections.abc import Callable

from ..model import assemble
from ..plan import Plan
from ..run import Run
from ..training import checkpoint
from ..training.device import Placement, device_named
from ..training.loop import Event
from ..training.watch import Share
from .features import extract, features, reference
from .metrics import kernel

SAMPLES = 500  # drawn of each checkpoint, always the same
REAL = 5000  # held-out pictures, at most


class Best:
    """A watcher that measures the kernel distance of samples to held-out pictures at each checkpoint, and names the best.

    The features are the data's own; they are trained when the run begins, unless they were before. Checkpoints that would make
    it more than a tenth of the time are passed over, but for the last.
    """

    def __init__(self, run: Run, plan: Plan, say: Callable[[str], None], device: str | None = None):
        self.run, self.plan, self.say, self.device, self.share = run, plan, say, device, Share(0.1)

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.features = features("own", self.plan, self.device)
            self.real = reference(self.features, self.plan, held_out=True, n=REAL, device=self.device)
            self.share.begin()
        elif event.kind == "checkpoint" and (self.share.allows() or event.state.images >= event.budget):
            with self.share.spending():
                placement = Placement.of(device_named(self.device), self.plan.facts)
                model = assemble(event.state.ema.net, self.plan.config, placement)
                found = extract(self.features, model.sample(SAMPLES), model.codec, self.device)
                value = kernel.estimates(found, self.real)[0].value
            if value is not None:
                self.say(f"After {event.state.images:,} images the kernel distance of {SAMPLES} samples is {value:.3g}.")
            checkpoint.compare(self.run.checkpoints, event.state.images, value, "kernel_distance")
