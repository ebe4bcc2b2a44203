"""Randomness with an address.

Every random number in this project is a function of (seed, purpose, position, call) and of its place within the sample:
never of the batch size, the rank, the worker, or of what was drawn before. The same image of the training stream, or the
same sample number, therefore always meets the same noise, on every device, before and after an interruption.

The generator is Philox-4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"), the
counter-based generator of Random123, here in vectorised integer tensor operations. Its 128-bit counter holds (block,
call, position), its 64-bit key holds (seed, purpose), so that no two addresses can meet. A purpose is a word, kept as
its CRC-32.
"""

import math
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers and key increments of Salmon et al., section 4.3
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 8  # of the permutation
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as the signed integer of the same bits


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Philox-4x32-10 of a counter (..., 4) under a key (..., 2): (..., 4) words in [0, 2^32), all in int64."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1  # int64 wraps modulo 2^64, which keeps all bits of the 32 x 32 bit product
        c0, c1, c2, c3 = (p1 >> 32) & _MASK ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) & _MASK ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return torch.stack((c0, c1, c2, c3), -1)


def keys(seed: int, purpose: str, positions: Tensor | range | list[int] | int, call: int = 0) -> Tensor:
    """The addresses of a batch, (B, 4) int64: seed, purpose, position, call.

    `seed` and `call` lie in [0, 2^32), `positions` are non-negative integers below 2^63: the position of an image in
    the training stream, or the number of a sample. `call` tells draws at one address apart (the steps of a sampler).
    """
    if not 0 <= seed <= _MASK:
        raise ValueError(f"A seed is a whole number from 0 to {_MASK}; found {seed}.")
    position = torch.as_tensor(positions if isinstance(positions, Tensor) else list(_iterate(positions)))
    address = torch.empty(len(position), 4, dtype=torch.int64, device=position.device)
    address[:, 0], address[:, 1], address[:, 2], address[:, 3] = seed, crc32(purpose.encode()), position, call
    return address


def words(keys: Tensor, count: int) -> Tensor:
    """`count` random words per key, (B, count) int64 in [0, 2^32)."""
    seed, purpose, position, call = keys[:, None, :].unbind(-1)  # (B, 1) each
    block = torch.arange(-(-count // 4), device=keys.device).expand(len(keys), -1)  # (B, blocks)
    counter = torch.stack([c.expand_as(block) for c in (block, call, position & _MASK, position >> 32)], -1)
    return philox(counter, torch.stack((seed, purpose), -1)).flatten(1)[:, :count]  # (B, count)


def uniform(keys: Tensor, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in [0, 1), (B, *shape): multiples of 2^-32 in float64, of 2^-24 else."""
    bits = words(keys, math.prod(shape)).reshape(-1, *shape)
    if dtype == torch.float64:
        return bits.double() * 2.0**-32
    return ((bits >> 8).float() * 2.0**-24).to(dtype)  # 24 bits are exact in float32, so that 1 is never reached


def normal(keys: Tensor, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, (B, *shape), by Box & Muller (1958): r = sqrt(-2 log u), r cos(2 pi v), r sin(2 pi v)."""
    count = math.prod(shape)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    u, v = words(keys, count + count % 2).to(real).mul(2.0**-32).unflatten(1, (2, -1)).unbind(1)  # (B, count / 2) each
    r = (-2 * torch.log(u + 2.0**-33)).clamp_min(0).sqrt()  # u + 2^-33 > 0: at most 6.8 standard deviations
    angle = 2 * math.pi * v
    return torch.cat((r * angle.cos(), r * angle.sin()), 1)[:, :count].reshape(-1, *shape).to(dtype)


def golden(seed: int, purpose: str, positions: Tensor) -> Tensor:
    """A low-discrepancy sequence in the stream position, (B,) float64 in [0, 1): frac(u0(seed) + position * golden ratio).

    Any run of n neighbouring positions is nearly stratified: no gap is wider than 2 / n (the three-gap theorem). Integer
    arithmetic modulo 2^64 keeps all digits at any position.
    """
    high, low = words(keys(seed, purpose, 0), 2)[0].tolist()
    start = (high << 32 | low) - (high >> 31 << 64)  # signed
    turn = positions.to(torch.int64) * _GOLDEN + start
    return (turn >> 11 & (1 << 53) - 1).double() * 2.0**-53


def shuffle(seed: int, purpose: str, positions: Tensor, n: int) -> Tensor:
    """The image at each position of an endless stream of shuffled epochs of n images, (B,) int64 in [0, n).

    Every epoch is another permutation of 0 .. n - 1, computed without a table: a Feistel network over the bits of n,
    repeated until it lands below n (cycle walking; Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    bits = max(2, (n - 1).bit_length())
    left, right = (1 << bits // 2) - 1, (1 << bits - bits // 2) - 1  # masks of the two halves
    epoch = positions // n
    first = int(epoch[0]) if len(epoch) else 0
    one = _round_keys(seed, purpose, first) if bool((epoch == first).all()) else None  # as nearly always
    many = None if one else words(keys(seed, purpose, epoch), _ROUNDS)  # (B, rounds)

    def scramble(x: Tensor, at: Tensor | slice) -> Tensor:
        high, low = x >> (bits - bits // 2), x & right
        for k, key in enumerate(one or many[at].unbind(1)):  # type: ignore[index]
            if k % 2:
                low = low ^ _mix(high + key) & right
            else:
                high = high ^ _mix(low + key) & left
        return high << (bits - bits // 2) | low

    index = scramble(positions - epoch * n, slice(None))
    while len(outside := (index >= n).nonzero()[:, 0]):
        index[outside] = scramble(index[outside], outside)
    return index


@lru_cache(256)
def _round_keys(seed: int, purpose: str, epoch: int) -> tuple[int, ...]:
    return tuple(words(keys(seed, purpose, epoch), _ROUNDS)[0].tolist())


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser in the manner of MurmurHash3: every bit of x reaches every bit of the result."""
    x = (x & _MASK) * 0x85EBCA6B & _MASK
    x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK
    return x ^ x >> 16


def _iterate(positions: range | list[int] | int) -> range | list[int]:
    return [positions] if isinstance(positions, int) else positions
