"""A step of training beside that of peers, same network and batch: python bench/peers.py [--batch 8] [--steps 1] [--rounds 5]

diffusers       UNet2DModel of google/ddpm-cifar10-32 as its script for unconditional training has it on one device by default:
                float32 (or, a line of its own, bfloat16 autocast), AdamW, clipped gradients, DDPMScheduler, no average of
                the weights; the pictures are tensors already, so that nothing is read or decoded
ddpm_cifar10    the same 35.7 M parameters, no dropout, trained by our loop: pictures from memory, AdamW, clipped gradients, the
                average of the weights, log lines, in the precision and layout that are measured to be fastest here
lucidrains      the Unet(64) of denoising-diffusion-pytorch as its Trainer has it by default: float32, Adam, clipped gradients,
                an average every ten steps; beside the same network in our loop
ddpmpp_cifar10  the 55.7 M parameters of EDM's DDPM++, by our loop and by a plain one: float32, contiguous, AdamW

All are measured in turns; with --compile, our loop also compiled (which takes minutes). Wants diffusers (pip install
"sfumato[test]"), and for lucidrains, which is left out where it is missing: pip install --no-deps denoising-diffusion-pytorch
einops ema-pytorch accelerate pytorch-fid psutil. Of torchvision, which it imports, a step uses nothing; empty modules stand in.
"""

import argparse
import copy
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
from _side_by_side import compare, heading
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from training import SIDE, Account, Ours

from sfumato import nets
from sfumato.config import Config
from sfumato.spec import Spec
from sfumato.training import loop
from sfumato.training.compiled import compiled

DDPM = dict(
    sample_size=32, block_out_channels=(128, 256, 256, 256), layers_per_block=2, norm_eps=1e-6, downsample_padding=0,
    flip_sin_to_cos=False, freq_shift=1, attention_head_dim=None,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip


class Diffusers:
    """examples/unconditional_image_generation/train_unconditional.py with its default flags, a step."""

    def __init__(self, precision: torch.dtype):
        torch.manual_seed(0)
        self.net = diffusers.UNet2DModel(**DDPM).train()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        self.scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.autocast = torch.autocast("cpu", precision, enabled=precision != torch.float32)

    def step(self, x0: torch.Tensor) -> None:
        eps, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        with self.autocast:
            loss = F.mse_loss(self.net(self.scheduler.add_noise(x0, eps, t), t).sample.float(), eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Lucidrains:
    """A step of Trainer.train, with pictures that are tensors already."""

    def __init__(self) -> None:
        for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
            sys.modules.setdefault(name, ModuleType(name))
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
        sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]  # type: ignore[attr-defined]
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        torch.manual_seed(0)
        self.net = Unet(64)
        self.diffusion = GaussianDiffusion(self.net, image_size=32).train()
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.average = EMA(self.diffusion, beta=0.995, update_every=10)

    def step(self, x0: torch.Tensor) -> None:
        loss = self.diffusion((x0 + 1) / 2)
        loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()


class Told(torch.nn.Module):
    """Its network under the names that ours are called with."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return self.net(x, c_noise)


class Plain:
    """A network of ours in a loop as it is written first: float32, contiguous."""

    def __init__(self, name: str):
        torch.manual_seed(0)
        self.net = nets.build(name).train()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)

    def step(self, x0: torch.Tensor) -> None:
        F.mse_loss(self.net(x0 + torch.randn_like(x0), torch.rand(len(x0))), x0).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="ddpm_cifar10, ddpmpp_cifar10, lucidrains; all unless said")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    loop.save = lambda *anything: None  # a checkpoint is no part of a step
    print(f"{heading()}, diffusers {diffusers.__version__}; 3x32x32, batch {args.batch}")
    ours = dict(size=(32, 32), channels=3, lr=1e-4, optimizer=Spec("adamw"))
    ddpm = dict(schedule=Spec("linear", steps=1000), predict="noise", weight=Spec("simple"), times=Spec("steps"))
    x0, matrix = torch.rand(args.batch, 3, 32, 32) * 2 - 1, torch.randn(SIDE, SIDE)
    half = matrix.bfloat16()
    products = {"float32": lambda: matrix @ matrix, "bfloat16": lambda: half @ half}
    groups: dict[str, tuple[Config, dict[str, Any], torch.nn.Module | None]] = {
        "ddpm_cifar10": (Config(net=Spec("ddpm_cifar10", dropout=0.0), **ours, **ddpm), {
            "diffusers, float32": Diffusers(torch.float32), "diffusers, bfloat16": Diffusers(torch.bfloat16),
        }, None),
        "ddpmpp_cifar10": (Config(net=Spec("ddpmpp_cifar10"), **ours), {"plain": Plain("ddpmpp_cifar10")}, None),
    }  # fmt: skip
    if find_spec("denoising_diffusion_pytorch"):
        lucid = Lucidrains()
        config = Config(**ours, schedule=Spec("linear", steps=1000), predict="v", weight=Spec("simple"), times=Spec("steps"))
        groups["lucidrains"] = config, {"lucidrains": lucid}, Told(copy.deepcopy(lucid.net))
    with tempfile.TemporaryDirectory() as root:
        os.environ.setdefault("SFUMATO_CACHE", f"{root}/cache")
        for name in args.names or groups:
            config, peers, net = groups[name]
            folder = Path(root, name)
            folder.mkdir()
            pictures = (torch.rand(256, 3, 32, 32) * 255).byte().permute(0, 2, 3, 1).numpy()
            account = Account(config, args.batch, args.steps, "", ())
            mine = Ours(account, pictures, folder, lambda text, name=name: print(f"\n{name} in {text}", flush=True), net)
            with FlopCounterMode(display=False) as counter:
                next(iter(peers.values())).step(x0)
            work = counter.get_total_flops() / args.batch
            turns = {what: lambda peer=peer: [peer.step(x0) for _ in range(args.steps)] for what, peer in peers.items()}
            turns["ours"] = mine
            if args.compile:
                faster = Ours(account, pictures, folder, lambda text: None, copy.deepcopy(net))
                if faster.faithful():
                    turns["ours, compiled"] = faster
                    compiled(faster.state.net)
                else:
                    print("  ours, compiled: wrong gradients", flush=True)
            found = compare(turns | products, rounds=args.rounds)
            peaks = {what: 2 * SIDE**3 / found.pop(what) for what in products}
            for what, seconds in found.items():
                rate = args.steps * args.batch / seconds
                shares = ", ".join(f"{rate * work / peak:4.0%} of a {kind} matrix product" for kind, peak in peaks.items())
                beside = f"{seconds / found['ours']:5.2f} x the time of ours"
                print(f"  {what:20} {rate:8.2f} images/s  {beside}  {rate * work / 1e9:4.0f} GFLOP/s, {shares}", flush=True)


if __name__ == "__main__":
    main()
