"""What is stored to [-1, 1] and back."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from sfumato.data import AffineCodec, Images
from sfumato.errors import UserError


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16), (np.uint16, 12), (np.uint8, 1)])
def test_every_whole_number_comes_back(dtype, bits):
    stored = np.arange(2**bits, dtype=dtype).reshape(1, 1, 2, -1)
    codec = AffineCodec.fit(Images(stored))
    assert codec.high == (2**bits - 1,)
    x0 = codec.encode(torch.from_numpy(stored))
    assert x0.dtype == torch.float32
    assert (x0.min(), x0.max()) == codec.clip
    back = codec.decode(x0)
    assert back.dtype == getattr(torch, np.dtype(dtype).name)
    assert np.array_equal(back.numpy(), stored)


def test_other_ends_for_imported_weights():
    """A network that saw pictures in [0, 1]: no guess below 0 may wrap around in uint8."""
    codec = AffineCodec((0,) * 3, (255,) * 3, "uint8", [0, 1])
    assert codec.clip == (0, 1)
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, -1, -1)
    x0 = codec.encode(stored)
    torch.testing.assert_close(x0, stored / 255)
    assert torch.equal(codec.decode(x0), stored)
    assert codec.decode(torch.tensor([-0.4, 1.7, 0.5]).view(1, 3, 1, 1)).flatten().tolist() == [0, 255, 128]
    raw = AffineCodec((0,), (255,), "uint8", (0, 255))
    assert raw.decode(torch.tensor([77.0, 300.0]).view(1, 1, 1, 2)).flatten().tolist() == [77, 255]


@pytest.mark.parametrize(("top", "high"), [(0, 1), (1, 1), (2, 3), (200, 255), (255, 255)])
def test_the_bits_of_the_maximum_decide(top, high):
    assert AffineCodec.fit(Images(np.full((2, 3, 4, 4), top, np.uint8))).high == (high,) * 3


def test_float_channels_have_ranges_of_their_own():
    array = np.random.default_rng(0).normal(size=(6, 3, 4, 5)).astype(np.float32)
    array[:, 1] = array[:, 1] * 1000 - 500
    array[:, 2] = 3
    codec = AffineCodec.fit(Images(array))
    assert codec.low == tuple(array.min(axis=(0, 2, 3)).tolist())
    x0 = codec.encode(torch.from_numpy(array))
    torch.testing.assert_close(x0[:, :2].amin(dim=(0, 2, 3)), torch.tensor([-1.0, -1.0]))
    torch.testing.assert_close(x0[:, :2].amax(dim=(0, 2, 3)), torch.tensor([1.0, 1.0]))
    assert (x0[:, 2] == 0).all()
    torch.testing.assert_close(codec.decode(x0), torch.from_numpy(array), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("dtype", "high"), [("uint8", 255), ("uint16", 4095), ("uint16", 65535), ("float32", 2.5)])
def test_decoding_saturates_and_never_wraps(dtype, high):
    codec = AffineCodec((0.0,), (high,), dtype)
    x0 = torch.tensor([-1.01, -1e30, -torch.inf, torch.nan, 1.01, 1e30, torch.inf, 1.0])[None, None, None]
    assert codec.decode(x0).flatten().tolist() == [0, 0, 0, 0, high, high, high, high]


def test_decoding_rounds_to_the_nearest():
    codec = AffineCodec((0.0,), (255.0,), "uint8")
    stored = torch.tensor([99.6, 100.4])[None, None, None]
    assert codec.decode(stored / 127.5 - 1).flatten().tolist() == [100, 100]
    assert codec.decode(torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)).item() == 128


def test_a_codec_survives_its_fields_as_json():
    codec = AffineCodec((0.0, 1.0), (255.0, 2.0), "float32")
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(codec).items()}
    assert AffineCodec(**lists) == codec
    for low, high, dtype in [((0,), (1, 2), "uint8"), ((2,), (1,), "uint8"), ((), (), "uint8"), ((0,), (1,), "int32")]:
        with pytest.raises(UserError):
            AffineCodec(low, high, dtype)
    with pytest.raises(ValueError, match=r"\(B, 2, H, W\)"):
        codec.encode(torch.zeros(1, 3, 4, 4))
