"""The stream: pictures by position and nothing else; augmentation, exact and told; windows; and networks that are told."""

import dataclasses
import math

import msgspec
import numpy as np
import pytest
import torch
import tyro

from sfumato import draws, flags, guides, nets, schedules
from sfumato.built import build_net
from sfumato.config import Config, Facts, Settled, builtins, checked, from_json
from sfumato.data import AffineCodec, Images
from sfumato.denoisers import Denoiser
from sfumato.errors import UserError
from sfumato.model import assemble
from sfumato.training import augment
from sfumato.training.device import Placement
from sfumato.training.stream import Stream

CPU = Placement(torch.device("cpu"))
ALL = {"flip": True, "flip_vertical": True, "rotate": True, "translate": 3, "augment": 0.5, "crop": (16, 16)}


def pictures(count=300, shape=(3, 20, 18), dtype=np.uint8):
    """Pictures of random pixels, so that no two and no two parts of one are alike; labels in turn."""
    array = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(dtype)
    return Images(array, np.arange(count) % 7, [str(i) for i in range(7)])


def stream(images=None, conditions=("label", "augment"), **options):
    images = pictures() if images is None else images
    codec = AffineCodec((0.0,) * images.shape[0], (255.0,) * images.shape[0], images.dtype.name)
    return Stream(images, codec, CPU, conditions, 4, **options)


def stored(s, x0):
    return s.codec.decode(x0).numpy()


# ---- which picture stands where --------------------------------------------------------------------------------------


def test_order_mirrors_and_labels_are_those_of_their_addresses():
    """Bit for bit what the draws say, each asked for by itself."""
    images = pictures()
    positions = torch.arange(8000, 8400)  # across a block and two epochs
    x0, cond = stream(images, flip=True, label_dropout=0.3).batch(positions)
    order = draws.shuffle(4, "order", positions, len(images))
    mirror = draws.uniform(draws.keys(4, "flip", positions)) < 0.5
    withheld = draws.uniform(draws.keys(4, "label dropout", positions)) < 0.3
    whole = torch.from_numpy(images.array)[order].float()
    whole = (whole - 127.5) / 127.5
    assert torch.equal(x0, torch.where(mirror[:, None, None, None], whole.flip(-1), whole))
    assert torch.equal(cond["label"], torch.where(withheld, 7, order % 7))


@pytest.mark.parametrize("options", [{"flip": True}, ALL], ids=["flip", "all"])
def test_the_pictures_do_not_depend_on_batch_ranks_or_interruption(options):
    first, last = 8130, 8260
    x0, cond = stream(label_dropout=0.3, **options).batch(torch.arange(first, last))
    for parts in ([*torch.arange(first, last).split(7)], [torch.arange(first + rank, last, 2) for rank in (0, 1)]):
        s = stream(label_dropout=0.3, **options)
        for part in reversed(parts):
            part_x0, part_cond = s.batch(part)
            assert torch.equal(part_x0, x0[part - first])
            assert part_cond.keys() == cond.keys()
            assert all(torch.equal(part_cond[name], cond[name][part - first]) for name in cond)
    far = torch.tensor([5, 40_000, 8131, 999_999])  # any positions, in any order
    assert torch.equal(stream(label_dropout=0.3, **options).batch(far)[0][2], x0[1])


def test_every_picture_occurs_once_in_every_epoch():
    """Also where batches straddle the end of an epoch, and where a block ends within one."""
    s, n = stream(), 300
    order = torch.cat([s.order(part) for part in torch.arange(0, 30 * n).split(64)])
    for epoch in order.split(n):
        assert epoch.sort().values.tolist() == list(range(n))
    assert len({tuple(epoch.tolist()) for epoch in order.split(n)}) == 30


def test_blocks_are_forgotten():
    s = stream()
    for position in range(0, 8192 * 5, 8192):
        s.order(torch.tensor([position]))
    assert len(s._blocks) == 2


# ---- moves -----------------------------------------------------------------------------------------------------------


def moved(array, move):
    """A picture (C, H, W) moved by numpy."""
    flip, flip_vertical, turns, down, right = move
    array = array[..., ::-1] if flip else array
    array = array[:, ::-1] if flip_vertical else array
    array = np.rot90(array, turns, (1, 2))
    H, W = array.shape[1:]
    t = max(abs(down), abs(right))
    return np.pad(array, ((0, 0), (t, t), (t, t)), mode="edge")[:, t - down : t - down + H, t - right : t - right + W]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_moves_are_those_of_numpy(dtype):
    """Alone and together, on every type that is stored, and in either layout."""
    rng = np.random.default_rng(1)
    moves = np.stack([rng.integers(0, n, 60) for n in (2, 2, 4, 9, 9)], 1) - [0, 0, 0, 4, 4]
    moves[:20] *= np.eye(5, dtype=int)[np.arange(20) % 5]
    x = rng.integers(0, 256, (60, 2, 6, 6)).astype(dtype)
    expected = np.stack([moved(picture, move) for picture, move in zip(x, moves.tolist(), strict=True)])
    assert np.array_equal(augment.apply(torch.from_numpy(x), moves).numpy(), expected)
    if dtype != np.uint16:
        last = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        assert np.array_equal(augment.apply(last, moves).numpy(), expected)


def test_moves_are_a_group_and_no_move_is_none():
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    one = lambda *move: np.tile(move, (5, 1))
    assert augment.apply(x, one(0, 0, 0, 0, 0)) is x
    for move, times in (((1, 0, 0, 0, 0), 2), ((0, 1, 0, 0, 0), 2), ((0, 0, 1, 0, 0), 4), ((0, 0, 2, 0, 0), 2)):
        y = x
        for _ in range(times):
            y = augment.apply(y, one(*move))
            assert torch.equal(y, x) == (_ == times - 1)
    half_turn = augment.apply(x, one(1, 1, 0, 0, 0))
    assert torch.equal(half_turn, augment.apply(x, one(0, 0, 2, 0, 0)))
    wide = torch.arange(12.0).view(1, 1, 2, 6)  # pictures need not be square for the rest
    assert augment.apply(wide, np.array([[1, 1, 0, 0, 2]]))[0, 0].tolist() == [[11, 11, 11, 10, 9, 8], [5, 5, 5, 4, 3, 2]]


def test_flags_move_as_often_as_they_say():
    moves = augment.plain(0, torch.arange(8192), True, True, True, 2)
    for column, values in enumerate([(0, 1), (0, 1), (0, 1, 2, 3), range(-2, 3), range(-2, 3)]):
        found, counts = np.unique(moves[:, column], return_counts=True)
        assert found.tolist() == list(values)
        share = 1 / len(values)
        assert np.abs(counts / 8192 - share).max() < 5 * (share * (1 - share) / 8192) ** 0.5
    assert np.abs(np.corrcoef(moves.T) - np.eye(5)).max() < 5 / 8192**0.5
    assert not augment.plain(0, torch.arange(8192)).any()


@pytest.mark.parametrize("share", [0.0, 0.12, 1.0])
def test_what_is_told_happens_with_its_probability(share):
    moves = augment.told(0, torch.arange(8192), share, (3, 16, 32))
    assert not moves[:, 2].any()  # not square
    square = augment.told(0, torch.arange(8192), share, (3, 16, 16))
    happened = [square[:, 0] > 0, square[:, 1] > 0, square[:, 2] > 0]
    spread = 5 * (share * (1 - share) / 8192) ** 0.5
    assert all(abs(h.mean() - share) <= spread for h in happened)
    assert moves[:, 3].min() == (-2 if share else 0)
    assert moves[:, 4].max() == (4 if share else 0)
    assert abs((square[:, 3:] != 0).any(1).mean() - share * 24 / 25) <= spread + 5 * (share / 25 / 8192) ** 0.5
    if share == 1:
        assert np.unique(square[:, 2]).tolist() == [1, 2, 3]


def test_the_vector_says_what_was_done():
    """From the vector alone the picture comes back, but for the edge that a shift has lost."""
    s = stream(pictures(shape=(1, 24, 24)), augment=0.5)
    positions = torch.arange(200)
    x0, cond = s.batch(positions)
    told, found, originals = cond["augment"], stored(s, x0), s.images.array[s.order(positions)]
    assert told.shape == (200, augment.LENGTH)
    assert told.dtype == torch.float32
    untouched = 0
    for (flip, flip_vertical, c, sine, down, right), picture, original in zip(told.tolist(), found, originals, strict=True):
        turns = round(np.arctan2(sine, c + 1) / (np.pi / 2))
        down, right = round(down * 24 / 8), round(right * 24 / 8)
        back = picture[:, max(0, down) : 24 + min(0, down), max(0, right) : 24 + min(0, right)]
        kept = moved(original, (flip, flip_vertical, turns, 0, 0))
        kept = kept[:, max(0, -down) : 24 + min(0, -down), max(0, -right) : 24 + min(0, -right)]
        assert np.array_equal(back, kept)
        if not any((flip, flip_vertical, turns, down, right)):
            untouched += 1
            assert np.array_equal(picture, original)
    assert 0 < untouched < 60
    table = np.array([[0, 0, 0, 0, 0], [1, 0, 1, 3, 0], [0, 1, 2, 0, -3], [0, 0, 3, 0, 0]])
    expected = [[0, 0, 0, 0, 0, 0], [1, 0, -1, 1, 1, 0], [0, 1, -2, 0, 0, -1], [0, 0, -1, -1, 0, 0]]
    assert augment.vector(table, (1, 24, 24)).tolist() == expected


def test_nothing_asked_is_nothing_done():
    s = stream()
    x0, cond = s.batch(torch.arange(50))
    assert np.array_equal(stored(s, x0), s.images.array[s.order(torch.arange(50))])
    assert cond.keys() == {"label"}
    assert torch.equal(stream(flip=None).batch(torch.arange(50))[0], x0)
    with pytest.raises(ValueError, match="not declared"):
        stream(conditions=["label"], augment=0.1)


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_windows_lie_anywhere_and_are_cut_as_they_lie():
    offsets = augment.offsets(0, torch.arange(8192), (3, 8, 6), (5, 5))
    found, counts = np.unique(offsets, axis=0, return_counts=True)
    assert found.tolist() == [[i, j] for i in range(4) for j in range(2)]
    assert np.abs(counts / 8192 - 1 / 8).max() < 5 * (1 / 8 * 7 / 8 / 8192) ** 0.5
    for dtype in (np.uint8, np.uint16, np.float32):
        images = pictures(10, dtype=dtype)
        s = stream(images, crop=(16, 12))
        windows = stored(s, s.batch(torch.arange(30))[0])
        at = augment.offsets(4, torch.arange(30), images.shape, (16, 12))
        for window, i, (y, x) in zip(windows, s.order(torch.arange(30)).tolist(), at.tolist(), strict=True):
            assert np.array_equal(window, images.array[i, :, y : y + 16, x : x + 12])
    whole = stream(crop=(20, 18)).batch(torch.arange(9))[0]
    assert torch.equal(whole, stream().batch(torch.arange(9))[0])


def test_pictures_held_out_are_never_moved_and_cut_in_the_middle():
    s = stream(**ALL)
    x0, cond = s.read(s.images.batch(range(9)))
    assert np.array_equal(stored(s, x0), s.images.array[:9, :, 2:18, 1:17])
    assert cond.keys() == {"label"}
    plain = stream(flip=True, augment=1.0)
    assert np.array_equal(stored(plain, plain.read(plain.images.batch(range(9)))[0]), s.images.array[:9])


# ---- settings --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Wrapped:
    config: tyro.conf.OmitArgPrefixes[Config] = dataclasses.field(default_factory=Config)


def test_settings_are_typed_and_old_files_mean_what_they_meant():
    typed = lambda *words: flags.parse(Wrapped(), list(words), "x", "y").config
    assert typed().flip is None
    assert typed("--flip").flip is True
    assert typed("--no-flip").flip is False
    full = checked(typed("--rotate", "--flip-vertical", "--translate", "2", "--augment", "0.12", "--crop", "8"))
    assert (full.rotate, full.flip_vertical, full.translate, full.augment, full.crop) == (True, True, 2, 0.12, (8, 8))
    assert from_json('{"flip": true}').flip is True
    assert from_json('{"flip": false}').flip is False
    assert from_json('{"flip": null}') == from_json("{}") == Settled()
    codec, config = (
        AffineCodec((0,) * 3, (255,) * 3, "uint8"),
        msgspec.structs.replace(full, flip=True, seed=4, label_dropout=0.5),
    )
    options = {"rotate": True, "flip_vertical": True, "translate": 2, "augment": 0.12, "crop": (8, 8), "label_dropout": 0.5}
    (x0, cond), (expected, told) = (
        s.batch(torch.arange(20))
        for s in (Stream.of(config, pictures(), codec, CPU, ["augment", "label"]), stream(flip=True, **options))
    )
    assert torch.equal(x0, expected)
    assert all(torch.equal(cond[name], told[name]) for name in ("augment", "label"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"rotate": True}, "Quarter turns .* 20x18; leave it out, or give --crop 18x18"),
     ({"crop": (24, 8)}, "Windows of 24x8 .* cannot be cut from pictures of 20x18"),
     ({"translate": 18}, "less than 18"), ({"translate": 9, "crop": (9, 9)}, "less than 9"), ({"augment": 1}, "none could be")],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_where_the_shape_is_known(settings, words):
    with pytest.raises(UserError, match=words):
        augment.checked(checked(builtins(Config()) | settings), (3, 20, 18))


def test_the_shape_that_is_trained_on():
    assert augment.checked(Config(), (3, 20, 18)) == (3, 20, 18)
    assert augment.checked(Config(crop=(16, 16), rotate=True, translate=15, augment=0.99), (3, 20, 18)) == (3, 16, 16)


# ---- networks that are told ------------------------------------------------------------------------------------------


FACTS = Facts(data="", fingerprint="", train=9, held_out=0, shape=(3, 8, 8), sigma_data=0.5, label_names=("a", "b"),
              label_counts=(5, 4), codec={"low": [0] * 3, "high": [255] * 3, "dtype": "uint8"})  # fmt: skip


def told_net(**settings):
    config = Config(net="unet:width=8,mults=(1,)", augment=0.12, sampling_steps=2, facts=FACTS, **settings)
    torch.manual_seed(0)
    net = build_net(checked(config), FACTS)
    for parameter in net.parameters():  # away from the zeros that it begins with
        torch.nn.init.normal_(parameter, std=0.3)
    return net, checked(config)


def test_a_network_is_built_to_be_told_where_it_can_be():
    net, config = told_net()
    assert net.conditions["augment"] == nets.Condition((augment.LENGTH,), torch.float32)
    assert "augment" not in build_net(msgspec.structs.replace(config, augment=0.0), FACTS).conditions
    for other in ("simple_unet", "unet:augment=3"):
        with pytest.raises(UserError, match=r"--net unet, .*--flip-vertical"):
            build_net(checked(Config(net=other, augment=0.1)), FACTS)
    mine = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="This network cannot be told"):
        build_net(config, FACTS, mine)
    mine.conditions = {"augment": nets.Condition((augment.LENGTH,), torch.float32)}
    assert build_net(config, FACTS, mine) is mine


def test_samples_are_drawn_from_a_network_that_is_told_with_and_without_guidance():
    net, config = told_net()
    model = assemble(net, config, CPU)
    free = model.sample(3)
    assert np.array_equal(free, model.sample(3, augment=torch.zeros(3, augment.LENGTH)))
    assert not np.array_equal(free, model.sample(3, augment=torch.ones(3, augment.LENGTH)))
    guided = model.sample(3, guidance=3.0, interval=(0, math.inf))
    assert guided.shape == (3, 8, 8, 3)
    assert not np.array_equal(free, guided)


def test_guidance_towards_what_is_told():
    """The null of the vector is 'not given', which is zeros."""
    net, _ = told_net()
    denoise = Denoiser(net.eval(), schedules.edm(), "edm")
    x, told = torch.randn(2, 3, 8, 8), torch.ones(2, augment.LENGTH)
    with torch.no_grad():
        better, worse = denoise(x, 0.5, augment=told), denoise(x, 0.5)
        torch.testing.assert_close(guides.cfg(denoise, 3.0)(x, 0.5, augment=told), worse + 3 * (better - worse))
    assert (better - worse).abs().max() > 1e-3
