"""Augmentation: windows, mirrors, quarter turns and shifts, all of them exact: pixels change their places, never their values.

Two kinds. What a person asks for by a flag of its own (flip, flip_vertical, rotate, translate) belongs to the pictures from
then on, and samples show it as often. What `augment` does is told to the network, which so learns from more than there is
and still draws what was there: nobody transformed a sample, and that is what it is told, or not told, when it samples.
(Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", section 5 and appendix F.2, where
the share is 12 %.)

A move is five whole numbers, done in this order: mirrored left to right (0 or 1), mirrored top to bottom (0 or 1), quarter
turns anticlockwise (0 .. 3), pixels down, pixels to the right; edge pixels are repeated where a shift leaves nothing. The
network is told a move as the vector, for pictures H x W,

    (mirrored left to right, mirrored top to bottom, cos a - 1, sin a, down / (H / 8), right / (W / 8))

with a the angle of the turn. It is exact, of size 1 or so, and 0 for a picture as it was.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..config import Config
from ..data import Images
from ..errors import UserError

MOVES = 5  # numbers in a move
LENGTH = 6  # numbers in the vector that tells it
_TURNS = np.array(((0, 0), (-1, 1), (-2, 0), (-1, -1)))  # cos a - 1 and sin a of a quarter turn each


def checked(config: Config, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape (C, H, W) that is trained on where the pictures have `shape`.

    Raises UserError for windows that pictures do not hold, for quarter turns of what is not square, and for shifts that
    would leave nothing of a picture.
    """
    (C, H, W), (h, w) = shape, config.crop or shape[1:]
    if h > H or w > W:
        raise UserError(f"Windows of {h}x{w} (--crop) cannot be cut from pictures of {H}x{W}; give at most {H}x{W}.")
    if config.rotate and h != w:
        raise UserError(
            f"Quarter turns (--rotate) need square pictures, and these are {h}x{w}; leave it out, or give "
            f"--crop {min(h, w)}x{min(h, w)}."
        )
    if config.translate >= min(h, w):
        raise UserError(
            f"Pictures of {h}x{w} cannot be shifted by up to {config.translate} pixels (--translate); "
            f"give less than {min(h, w)}."
        )
    if config.augment == 1:
        raise UserError("With --augment 1 no picture would be seen as it is, and none could be drawn; 0.12 is usual.")
    return C, h, w


def declared(conditions: Mapping[str, Any]) -> bool:
    """Whether a network that declares these conditions can be told a move."""
    return getattr(conditions.get("augment"), "shape", None) == (LENGTH,)


# ---- windows ---------------------------------------------------------------------------------------------------------


def offsets(seed: int, positions: Tensor, shape: tuple[int, ...], window: tuple[int, int]) -> np.ndarray:
    """Where the windows (h, w) of pictures (..., H, W) begin, (B, 2): row and column, all places equally likely."""
    places = torch.tensor([1 + whole - part for whole, part in zip(shape[-2:], window, strict=True)])
    return (draws.words(draws.keys(seed, "crop", positions), 2) * places >> 32).numpy()


def cut(x: Tensor, offsets: np.ndarray, window: tuple[int, int]) -> Tensor:
    """The windows (h, w) of pictures (B, C, H, W) on the CPU that begin at `offsets` (B, 2): (B, C, h, w)."""
    (h, w), stored = window, x.numpy()
    out = np.empty((*x.shape[:2], h, w), stored.dtype)
    for k, (row, column) in enumerate(offsets.tolist()):  # views: three times as fast as an index of all pixels
        out[k] = stored[k, :, row : row + h, column : column + w]
    return torch.from_numpy(out)


def centre(x: Tensor, window: tuple[int, int]) -> Tensor:
    """The windows (h, w) in the middle of pictures (B, C, H, W), up and to the left where there are two middles."""
    (H, W), (h, w) = x.shape[-2:], window
    return x[..., (H - h) // 2 : (H - h) // 2 + h, (W - w) // 2 : (W - w) // 2 + w]


# ---- moves: small tables on the CPU, in numpy, where small operations cost a fifth of torch's ------------------------


def plain(
    seed: int, positions: Tensor, flip: bool = False, flip_vertical: bool = False, rotate: bool = False, translate: int = 0
) -> np.ndarray:
    """The moves (B, 5) of the flags: mirrors with probability 1/2, and all turns and shifts equally likely."""
    moves = torch.zeros(len(positions), MOVES, dtype=torch.int64)
    if flip:
        moves[:, 0] = draws.uniform(draws.keys(seed, "flip", positions)) < 0.5
    if flip_vertical:
        moves[:, 1] = draws.uniform(draws.keys(seed, "flip vertical", positions)) < 0.5
    if rotate:
        moves[:, 2] = draws.words(draws.keys(seed, "rotate", positions), 1)[:, 0] >> 30
    if translate:
        moves[:, 3:] = (draws.words(draws.keys(seed, "translate", positions), 2) * (2 * translate + 1) >> 32) - translate
    return moves.numpy()


def told(seed: int, positions: Tensor, share: float, shape: tuple[int, ...]) -> np.ndarray:
    """The moves (B, 5) that the network is told: each mirror, a turn and a shift with probability `share`, independently.

    A turn is by one, two or three quarters, and left out for pictures (..., H, W) that are not square; a shift is by up to
    an eighth of height and width; all equally likely.
    """
    H, W = shape[-2:]
    words = draws.words(draws.keys(seed, "augment", positions), 7).numpy()
    chosen = words[:, :4] < share * 2**32
    turns = 1 + (words[:, 4] * 3 >> 32) if H == W else 0
    most = np.array([H // 8, W // 8])
    shifts = (words[:, 5:] * (2 * most + 1) >> 32) - most  # (B, 2)
    return np.column_stack((chosen[:, :2], chosen[:, 2] * turns, chosen[:, 3:] * shifts))


def vector(moves: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """What the network is told of moves (B, 5) of pictures (..., H, W): (B, 6) float32."""
    turns, shifts = _TURNS[moves[:, 2]], moves[:, 3:] * 8 / np.array(shape[-2:])
    return torch.from_numpy(np.column_stack((moves[:, :2], turns, shifts)).astype(np.float32))


def apply(x: Tensor, moves: np.ndarray) -> Tensor:
    """Pictures (B, C, H, W) of any type on any device, moved by (B, 5).

    Only the pictures that a step moves are touched by it, and an accelerator is never waited for.
    """
    if x.dtype == torch.uint16:  # torch mirrors no uint16, but the same bits
        return apply(x.view(torch.int16), moves).view(torch.uint16)
    flip, flip_vertical, turn, down, right = np.asarray(moves.any(0)).tolist()
    if flip:
        x = _with(x, moves[:, 0], lambda part: part.flip(-1))
    if flip_vertical:
        x = _with(x, moves[:, 1], lambda part: part.flip(-2))
    for turns in (1, 2, 3) if turn else ():
        x = _with(x, moves[:, 2] == turns, partial(torch.rot90, k=turns, dims=(-2, -1)))
    if down or right:
        shifts = moves[:, 3:]
        shifted = np.asarray(shifts.any(1))
        x = _with(x, shifted, lambda part: _shifted(part, torch.from_numpy(shifts[shifted])))
    return x


def _with(x: Tensor, chosen: np.ndarray, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Pictures (B, C, H, W), the chosen (B,) of them moved; x itself is left alone."""
    rows, places = np.flatnonzero(chosen), np.arange(len(x))
    if not len(rows):
        return x
    if x.device.type == "cpu":  # where numpy writes to some rows in a third of the time that torch takes
        moved = x.numpy().copy()
        moved[rows] = move(torch.from_numpy(moved[rows])).numpy()
        return torch.from_numpy(moved)
    places[rows] = np.arange(len(x), len(x) + len(rows))
    there = lambda index: torch.from_numpy(index).to(x.device, non_blocking=True)
    return torch.cat((x, move(x.index_select(0, there(rows))))).index_select(0, there(places))


def _shifted(x: Tensor, shifts: Tensor) -> Tensor:
    """Pictures (B, C, H, W) shifted by (B, 2) pixels down and to the right, edges repeated."""
    (H, W), (down, right) = x.shape[-2:], shifts.to(x.device, non_blocking=True).unbind(1)
    rows = (torch.arange(H, device=x.device) - down[:, None]).clamp(0, H - 1)  # (B, H): where each row comes from
    columns = (torch.arange(W, device=x.device) - right[:, None]).clamp(0, W - 1)  # (B, W)
    source = (rows[:, :, None] * W + columns[:, None, :]).flatten(1)[:, None, :]  # (B, 1, HW)
    return x.flatten(2).gather(2, source.expand(-1, x.shape[1], -1)).view(x.shape)


# ---- what is told of it ----------------------------------------------------------------------------------------------


def mirrored(config: Config, images: Images) -> tuple[bool, str]:
    """Whether pictures are mirrored left to right, and the sentence that says why."""
    if config.flip is not None:
        which = "Half of the pictures are" if config.flip else "The pictures are not"
        return config.flip, f"{which} mirrored left to right, as the settings say."
    if not images.natural:
        why = "their classes look like digits or letters, or they are medical"
        return False, f"The pictures are not mirrored, for {why} (--flip mirrors them)."
    if images.shape[0] != 3:
        return False, "The pictures are not mirrored, for only photographs in colour are unless asked (--flip)."
    return True, "Half of the pictures are mirrored left to right, as photographs in colour may be (--no-flip leaves them)."


def moves(config: Config, h: int, w: int) -> list[str]:
    """What else is done to the pictures each time they are seen."""
    said = {
        f"{config.cut_bottom} rows are cut off at the bottom of each file (--cut-bottom 0 keeps them).": config.cut_bottom,
        f"Windows of {h}x{w} are cut from them at random, anew each time.": config.crop,
        "Half of them are mirrored top to bottom, as the settings say.": config.flip_vertical,
        "They are turned by quarters, as the settings say.": config.rotate,
        f"They are shifted by up to {config.translate} pixels, as the settings say.": config.translate,
        f"Of mirrors, turns and shifts {config.augment:g} each are done to them and told to the network.": config.augment,
    }
    return [sentence for sentence, done in said.items() if done]
