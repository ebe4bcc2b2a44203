"""Weights of `ddpm_unet` under the names of diffusers' UNet2DModel, and back; nothing but names and shapes changes."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..nets.blocks import groups

ONCE = {
    "conv_in": "enter",
    "time_embedding.linear_1": "time.0",
    "time_embedding.linear_2": "time.2",
    "class_embedding": "label",
    "conv_norm_out": "norm",
    "conv_out": "leave",
}
BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "shift",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "skip",
}
ATTENTION = {"group_norm": "norm", "to_out.0": "out"}
QKV = ("to_q", "to_k", "to_v")  # three linear layers; here one convolution of 1x1
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # as google/ddpm-* have them

# What names and shapes of a UNet2DModel do not tell: what makes it a `ddpm_unet`, and what holds where its config is silent.
SETTINGS: dict[str, tuple[object, object]] = {
    "act_fn": ("silu", "silu"),
    "attention_head_dim": (None, 8),
    "center_input_sample": (False, False),
    "downsample_padding": (0, 1),
    "flip_sin_to_cos": (False, True),
    "freq_shift": (1, 0),
    "mid_block_scale_factor": (1, 1),
    "norm_eps": (1e-6, 1e-5),
}


def adopted(state: Mapping[str, Tensor], file: Path) -> Mapping[str, Tensor]:
    """Weights as they are named here, if their names are those of a UNet2DModel; others as they are.

    Raises UserError if config.json beside the file says that the same weights mean another network.
    """
    if not {"conv_in.weight", "mid_block.resnets.0.conv1.weight"} <= state.keys():
        return state
    try:
        config = json.loads((file.parent / "config.json").read_text())
    except (OSError, ValueError):  # names and shapes are all that is known
        return from_diffusers(state)
    width = len(state["conv_in.weight"])
    settings = SETTINGS | {"norm_num_groups": (groups(width), 32)}
    other = [
        f"{k} is {found}, not {ours}" for k, (ours, silent) in settings.items() if (found := config.get(k, silent)) != ours
    ]
    if other:
        raise UserError(f"{file} is a UNet2DModel unlike ddpm_unet, for in config.json beside it {', '.join(other)}.")
    return from_diffusers(state)


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a UNet2DModel as `ddpm_unet` names them; names that it does not know stay as they are."""
    state = {_newer(name): tensor for name, tensor in state.items()}
    levels = len({name.split(".")[1] for name in state if name.startswith("down_blocks.")})
    blocks = len({name.split(".")[3] for name in state if name.startswith("down_blocks.0.resnets.")})
    ours = {}
    for theirs, mine in _layers(levels, blocks):
        for kind in ("weight", "bias"):
            parts = [f"{one}.{kind}" for one in theirs]
            if all(part in state for part in parts):
                tensors = [state.pop(part) for part in parts]
                ours[f"{mine}.{kind}"] = _square(torch.cat(tensors)) if _linear(mine) else tensors[0]
    return ours | state


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `ddpm_unet` as UNet2DModel names them, with num_class_embeds = classes + 1 if it knows labels."""
    down = [name for name in state if name.startswith("downs.")]
    levels = 1 + sum(name.count(".") == 3 and name.endswith(".conv.weight") for name in down)
    blocks = sum(name.endswith(".block.conv1.weight") for name in down) // levels
    theirs: dict[str, Tensor] = {}
    for names, mine in _layers(levels, blocks):
        for kind in ("weight", "bias"):
            if (tensor := state.get(f"{mine}.{kind}")) is not None:
                flat = tensor.flatten(1) if _linear(mine) and kind == "weight" else tensor
                theirs |= {f"{name}.{kind}": part for name, part in zip(names, flat.chunk(len(names)), strict=True)}
    return theirs


def _layers(levels: int, blocks: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Their names, and ours, of every layer that a network of so many levels and blocks may have."""
    yield from (((theirs,), mine) for theirs, mine in ONCE.items())
    for theirs, ours, count, resize in (
        ("down_blocks", "downs", blocks, "downsamplers"),
        ("up_blocks", "ups", blocks + 1, "upsamplers"),
    ):
        for level in range(levels):
            first = level * (count + 1)  # a change of size stands between two levels
            for k in range(count):
                yield from _stage(f"{theirs}.{level}", k, f"{ours}.{first + k}")
            yield (f"{theirs}.{level}.{resize}.0.conv",), f"{ours}.{first + count}.conv"
    for k in range(2):
        yield from _stage("mid_block", k, f"middle.{k}")


def _stage(theirs: str, k: int, ours: str) -> Iterator[tuple[tuple[str, ...], str]]:
    yield from (((f"{theirs}.resnets.{k}.{a}",), f"{ours}.block.{b}") for a, b in BLOCK.items())
    yield from (((f"{theirs}.attentions.{k}.{a}",), f"{ours}.attention.{b}") for a, b in ATTENTION.items())
    yield tuple(f"{theirs}.attentions.{k}.{a}" for a in QKV), f"{ours}.attention.qkv"


def _linear(mine: str) -> bool:
    """Whether a layer of ours is a convolution of 1x1 that is linear there."""
    return mine.endswith((".qkv", ".out"))


def _square(tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


def _newer(name: str) -> str:
    """A name as diffusers has spelt it since 0.17."""
    return re.sub(r"(?<=attentions\.\d\.)(query|key|value|proj_attn)(?=\.)", lambda found: OLDER[found[0]], name)
