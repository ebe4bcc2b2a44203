"""A training that is fully said, and what it takes on a machine: measured with steps of it."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import torch
from torch import nn

from . import defaults
from .built import build_net
from .config import Settled, build_schedule
from .data import Images
from .denoisers import LOWEST, Denoiser
from .model import Described
from .nets import parameters
from .training import loop
from .training.compiled import WrongGradients, compiled, worthwhile
from .training.device import Placement, address, choose
from .training.device import speed as measured_speed
from .training.recompute import recompute
from .training.stream import Stream

Say = Callable[[str], None]
TRIED = 2**16  # pixels of a channel, at most, of the pictures that a CPU is measured with


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass
class Plan(Described):
    """A Config with every choice made, the pictures it is for, and why."""

    config: Settled
    train: Images
    held_out: Images
    reasons: list[str]
    images: Images  # all of them
    kind: str  # of source
    begun: float = field(default_factory=time.perf_counter)  # when the pictures were read, and choosing began

    def build(self, net: nn.Module | None = None) -> nn.Module:
        """The network of the config, or one's own, untrained; with `checkpointing` its blocks recompute what they need.

        Raises UserError for what `build_net` and `recompute` refuse.
        """
        built = build_net(self.config, self.facts, net)
        return recompute(built) if self.config.checkpointing else built

    def fastest(
        self, net: nn.Module, device: torch.device, say: Say = silent, precision: str | None = None
    ) -> tuple[Placement, float]:
        """The placement that trains the network fastest, measured once and remembered, and its seconds for a picture.

        precision    as in Config; the config's unless said
        """
        found, seconds = choose(self.trial(), net, device, precision or self.config.precision, self._signature(net), say)
        return found, seconds / self._at_once(device)

    def compiles(self, net: nn.Module, placement: Placement, each: float, say: Say = silent) -> bool:
        """Whether training is shorter with compiled code, at so many seconds for a picture without; measured and remembered.

        Raises UserError where it is asked for and fails.
        """
        seconds = self.config.time or each * (defaults.budget(self.config, lambda: 0.0).images or 0)
        key = address(placement.device, f"{self._signature(net)} {placement}")

        def measure(faster: bool) -> float:
            if faster and not self.faithful(net, placement):
                raise WrongGradients
            return self.speed(net, placement, 2.0, faster, whole=True)

        return worthwhile(measure, self.config.compile, seconds, key, say)

    def speed(self, net: nn.Module, placement: Placement, seconds: float, faster: bool = False, whole: bool = False) -> float:
        """Images a second of a copy of the network in training, measured for about so many seconds.

        faster    with compiled code
        whole     with the batches of training, even where one of them may take minutes
        """
        config = msgspec.structs.replace(self.config, images=self.config.images or 10**9)
        if not whole and (count := self._at_once(placement.device)) < -(-config.batch // config.accumulate):
            config = msgspec.structs.replace(config, batch=count, accumulate=1)
        state = loop.start(config, copy.deepcopy(net), build_schedule(config), self.facts.sigma_data, placement)
        if faster:
            compiled(state.net)
        stream = Stream.of(config, self.train, self.codec, placement, state.denoiser.conditions)
        return measured_speed(lambda: loop.step(config, stream, state), placement.device, config.batch, seconds)

    def faithful(self, net: nn.Module, placement: Placement) -> bool:
        """Whether compiled code has the gradients of plain code but for rounding: no tensor's differs by half of its size.

        A compiler may be wrong: torch 2.13 makes of some networks code that, in bfloat16 on a CPU, has no gradient at all
        for most weights, and says nothing. Gradients that are nothing but rounding, as those of a bias before a batch
        normalisation, are not compared: they become others when the weights change by a thousandth.
        """
        step, found = self.trial(keep=True), []
        for faster, moved in ((False, 0.0), (False, 1e-3), (True, 0.0)):
            trained, generator = placement.net(copy.deepcopy(net)), torch.Generator().manual_seed(0)
            for module in trained.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0  # masks would differ
            for weight in trained.parameters():
                if not weight.any():  # nothing would flow back through what starts at 0
                    weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
                weight.data *= (1 + moved * torch.randn(weight.shape, generator=generator)).to(weight.device)
            step(compiled(trained) if faster else trained, placement)
            found.append([p.grad.float() for p in trained.parameters() if p.grad is not None])
        return len(found[0]) == len(found[2]) and all(
            (c - a).norm() <= 0.5 * a.norm() for a, b, c in zip(*found, strict=True) if (b - a).norm() <= 0.1 * a.norm()
        )

    def trial(self, keep: bool = False) -> Callable[[nn.Module, Placement], None]:
        """One forward and backward pass, as the loop does them, on real pictures; to compare placements.

        keep    the gradients, which are else thrown away
        """
        config, schedule = self.config, build_schedule(self.config)

        def step(net: nn.Module, placement: Placement) -> None:
            positions = torch.arange(self._at_once(placement.device))
            denoiser = Denoiser(net.train(), schedule, config.predict, config.c_noise, self.facts.sigma_data)
            x0, cond = Stream.of(config, self.train, self.codec, placement, denoiser.conditions).batch(positions)
            t = torch.full((len(positions),), schedule.time(LOWEST / 6), dtype=torch.float64)
            with placement.autocast():
                loss = loop.loss_of(config, denoiser, x0, t, torch.zeros_like(x0), cond)
            loss.mean().backward()
            if not keep:
                net.zero_grad(set_to_none=True)

        return step

    def _at_once(self, device: torch.device) -> int:
        """How many pictures a measurement takes: those of a step, on a CPU fewer, for there a step may take minutes."""
        count, (_, height, width) = -(-self.config.batch // self.config.accumulate), self.facts.shape
        return min(count, max(2, TRIED // (height * width))) if device.type == "cpu" else count

    def _signature(self, net: nn.Module) -> str:
        """What tells this network and its batches from others."""
        config = self.config
        more = " told" * bool(config.augment) + " checkpointing" * config.checkpointing
        return (
            f"{config.net} {type(net).__name__} {parameters(net)} {self.facts.shape} {config.batch} {config.accumulate}{more}"
        )
