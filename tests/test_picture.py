"""Pictures: what is drawn is what was given, and files are whole."""

import json

import numpy as np
import pytest
from PIL import Image, ImageSequence

from sfumato.disk import whole_file
from sfumato.errors import UserError
from sfumato.picture import (
    apng,
    claim,
    class_grid,
    curves,
    gif,
    grid,
    loss_curve,
    loss_curves,
    pairs,
    save_grid,
    save_png,
    save_samples,
    schedule_plot,
    set_aside,
    sheet,
    strip,
    to_pil,
    to_uint8,
)  # fmt: skip
from sfumato.picture.axes import brief
from sfumato.picture.grids import PAPER, shortened


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def enlarge(image, scale):
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


# pixels


def test_conversion_saturates_and_never_wraps():
    values = np.array([300.0, -5.0, np.nan, np.inf, -np.inf, 127.4, 127.6, 255.0, 0.0])
    assert to_uint8(values, 0, 255).tolist() == [255, 0, 0, 255, 0, 127, 128, 255, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_read_as_minus_one_to_one(dtype):
    values = np.array([-1, 0.5, 1, -1.01, 1.01, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
    assert to_uint8(values).tolist() == [0, 191, 255, 0, 255, 255, 0]


def test_uint16_uses_its_whole_range_or_the_one_given():
    values = np.array([0, 128, 129, 4095, 65535], np.uint16)
    assert to_uint8(values).tolist() == [0, 0, 1, 16, 255]
    assert to_uint8(values, high=4095).tolist() == [0, 8, 8, 255, 255]
    assert to_uint8(values, low=129).tolist()[:3] == [0, 0, 0]


def test_every_8_bit_level_survives_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    assert to_uint8(levels) is levels
    np.testing.assert_array_equal(to_uint8((levels / 127.5 - 1).astype(np.float32)), levels)
    np.testing.assert_array_equal(to_uint8(levels.astype(np.uint16) * 257), levels)


@pytest.mark.parametrize("bad", [np.zeros(3, np.int64), np.zeros(3, bool), np.array(["a"])])
def test_other_dtypes_are_refused(bad):
    with pytest.raises(UserError, match="uint8, uint16 or float"):
        to_uint8(bad)


def test_an_empty_range_is_refused():
    with pytest.raises(UserError, match="low < high"):
        to_uint8(np.zeros(3), 1, 1)


def test_what_each_number_of_channels_looks_like():
    image = random_images(3, 5, 4)
    gray, two, three, four = (to_pil(image[:, :, :c]) for c in (1, 2, 3, 4))
    assert (gray.mode, two.mode, three.mode, four.mode) == ("L", "L", "RGB", "L")
    np.testing.assert_array_equal(gray, image[:, :, 0])
    np.testing.assert_array_equal(two, np.concatenate([image[:, :, 0], image[:, :, 1]], axis=1))
    np.testing.assert_array_equal(three, image[:, :, :3])
    np.testing.assert_array_equal(four, np.concatenate([image[:, :, c] for c in range(4)], axis=1))


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 1), (4, 4, 0), (0, 4, 1)])
def test_an_image_has_three_dimensions(shape):
    with pytest.raises(UserError, match="height, width, channels"):
        to_pil(np.zeros(shape))


def test_png_text_round_trips(tmp_path):
    text = {
        "run": "runs/cars",
        "solver": "Größe é",
        "title": "猫 → 犬",
        "json": json.dumps({"seed": 0, "steps": [1, 2]}),
    }
    image = random_images(4, 6, 3)
    save_png(tmp_path / "a.png", image, text)
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(read, image)
        assert read.text == text


def test_16_bit_png_round_trips(tmp_path):
    image = np.array([[[0], [1], [255]], [[256], [40000], [65535]]], np.uint16)
    save_png(tmp_path / "a.png", image, {"bits": "16"})
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(read), image[:, :, 0])
        assert read.text == {"bits": "16"}


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, random_images(2, 2, 1))
    before = path.read_bytes()

    def power_cut():
        with whole_file(path) as file:
            file.write(b"half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        power_cut()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_samples_drawn_otherwise_are_set_aside_and_nothing_else(tmp_path):
    def drawn(folder, **text):
        folder.mkdir(exist_ok=True)
        for name in ("s1-00000.png", "s1-00037.png", "s1-grid.png"):
            save_png(folder / name, random_images(2, 2, 1), text)
        (folder / "s1-grid.gif").write_bytes(b"GIF")

    out = tmp_path / "out"
    drawn(out, steps="3")
    kept = ["s1-favourite.png", "s10-00000.png"]
    for name in kept:
        save_png(out / name, random_images(2, 2, 1), {})
    assert set_aside(out, 1, {"steps": "3"}) == ""
    assert "4 files of seed 1" in set_aside(out, 1, {"steps": "4"})
    assert sorted(path.name for path in out.iterdir()) == ["older-1", *sorted(kept)]
    drawn(out, steps="4")
    (out / "s1-00005.png").write_text("no picture")
    assert "5 files" in set_aside(out, 1, {"steps": "4"})
    assert {path.name for path in (out / "older-1").iterdir()} < {path.name for path in (out / "older-2").iterdir()}


def test_all_that_is_drawn_of_a_seed_is_set_aside_together(tmp_path):
    names = ["s1-00037-large.png", "s1-00037-halfway.png", "s1-halfway.png", "s1-classes.png", "s1-classes-halfway.png"]
    for name in names:
        save_png(tmp_path / name, random_images(2, 2, 1), {"steps": "3"})
    for name in ("s1-00037-large.gif", "s1-grid.apng", "s1-classes.apng"):
        (tmp_path / name).write_bytes(b"moving")
    save_png(tmp_path / "s2-halfway.png", random_images(2, 2, 1), {"steps": "3"})
    assert set_aside(tmp_path, 1, {"steps": "3"}) == ""
    assert "8 files of seed 1" in set_aside(tmp_path, 1, {"steps": "4"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["older-1", "s2-halfway.png"]


def test_a_picture_takes_the_place_of_its_own_kind_alone(tmp_path):
    path = tmp_path / "made" / "loss.png"
    assert claim(path, "loss", False) == path
    save_png(path, random_images(2, 2, 1), {"picture": "loss"})
    assert claim(path, "loss", False) == claim(path, "loss", True) == path
    assert claim(path, "forward", False).name == "loss-2.png"
    with pytest.raises(UserError, match="no earlier picture of this kind"):
        claim(path, "forward", True)
    (tmp_path / "made" / "loss-2.png").write_text("mine")
    assert claim(path, "forward", False).name == "loss-3.png"
    for other in (tmp_path / "made", tmp_path / "a.jpg"):
        with pytest.raises(UserError, match="names a PNG file"):
            claim(other, "loss", True)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_samples_lose_nothing_and_can_be_looked_at(channels, dtype, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    displayed = random_images(2, 4, 6, channels)
    stored = displayed if dtype == "uint8" else (displayed * np.float64(250.3)).astype(dtype)
    text = {"seed": "7", "solver": "dpm++ 猫"}
    paths = save_samples(stored, displayed, tmp_path / "out", 7, 37, text)
    in_png = (dtype, channels) in {("uint8", 1), ("uint8", 3), ("uint16", 1)}
    pngs, exact = ["s7-00037.png", "s7-00038.png"], ["s7-00037.tif", "s7-00038.tif"]
    assert [path.name for path in paths] == pngs + ([] if in_png else exact)
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    for i in range(2):
        with Image.open(paths[i]) as read:
            assert read.text == text
            seen = stored[i, :, :, 0] if (dtype, channels) == ("uint16", 1) else np.asarray(to_pil(displayed[i]))
            np.testing.assert_array_equal(read, seen)
        if not in_png:
            with tifffile.TiffFile(paths[2 + i]) as file:
                assert json.loads(file.pages[0].description) == text
                read = file.asarray()
                assert read.dtype == stored.dtype
                np.testing.assert_array_equal(read.reshape(stored[i].shape), stored[i])
    assert "files of seed 7" in set_aside(tmp_path / "out", 7, {"seed": "8"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["older-1"]


# grids


@pytest.mark.parametrize(
    ("size", "scale", "gap"), [((8, 8), 8, 2), ((28, 28), 2, 2), ((64, 64), 1, 2), ((256, 256), 1, 8), ((16, 32), 2, 1)]
)
def test_default_enlargement_and_gap(size, scale, gap):
    picture = grid(random_images(4, *size, 1))
    assert picture.size == tuple(2 * scale * s + 3 * gap for s in reversed(size))


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (5, 3), (7, 3), (8, 4), (12, 4), (32, 8), (64, 8), (100, 10)]
)
def test_default_columns_are_near_square_and_fill_rows_where_they_can(count, columns):
    assert grid(random_images(count, 2, 2, 1), scale=1, gap=0).size == (2 * columns, 2 * -(-count // columns))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_tile_is_the_enlarged_image_and_all_else_is_background(channels):
    images = random_images(5, 3, 4, channels)
    picture = np.asarray(grid(images, columns=3, scale=5, gap=2, background=7)).copy()  # (2 * 15 + 6, 3 * 20 + 8)
    assert picture.shape[:2] == (36, 68)
    for i, image in enumerate(images):
        y, x = 2 + (i // 3) * 17, 2 + (i % 3) * 22
        tile = picture[y : y + 15, x : x + 20]
        np.testing.assert_array_equal(tile.reshape(15, 20, channels), enlarge(image, 5))
        tile[...] = 7
    assert (picture == 7).all()


def test_titles_move_the_images_and_leave_them_alone():
    images = random_images(4, 8, 8, 1)
    bare = np.asarray(grid(images, columns=2))
    titled = np.asarray(grid(images, columns=2, titles=["real", "generated"]))
    margin = titled.shape[1] - bare.shape[1]
    np.testing.assert_array_equal(titled[:, margin:], bare)
    assert titled[:66, :margin].min() < 128  # there is ink beside each row
    assert titled[66:, :margin].min() < 128
    assert (titled[:, 0] == PAPER).all()


def test_colour_background_makes_a_gray_grid_colour():
    picture = grid(random_images(1, 2, 2, 1), scale=1, gap=1, background=(10, 20, 30))
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(
    "options", [{"columns": 0}, {"scale": 0}, {"scale": 1.5}, {"titles": ["one", "two", "three"], "columns": 2}]
)
def test_a_grid_that_cannot_be_is_refused(options):
    with pytest.raises(UserError):
        grid(random_images(4, 8, 8, 1), **options)


def test_no_images_are_refused():
    with pytest.raises(UserError, match="above 0"):
        grid(np.zeros((0, 8, 8, 1)))
    with pytest.raises(UserError, match="at least one row"):
        sheet({})


def test_a_strip_is_one_row_with_captions_below():
    states = random_images(3, 8, 8, 1)
    bare = np.asarray(strip(states))
    np.testing.assert_array_equal(bare, grid(states, columns=3))
    captioned = np.asarray(strip(states, ["t = 1", "t = 0.5", "t = 0"]))
    assert captioned.shape[1] == bare.shape[1]  # these captions are narrower than the images
    np.testing.assert_array_equal(captioned[:66], bare[:66])
    for i in range(3):
        assert captioned[66:, 2 + 66 * i : 66 + 66 * i].min() < 128


def test_wide_captions_move_images_apart_and_do_not_overlap():
    states = np.zeros((2, 8, 8, 1), np.uint8)
    picture = np.asarray(strip(states, ["a caption wider than its image", "b"]))
    assert picture.shape[1] > 4 * 64
    assert (np.asarray(picture[2:66]) == 0).sum() == 2 * 64 * 64
    with pytest.raises(UserError, match="2 stages"):
        strip(states, ["only one"])


def test_a_sheet_lays_rows_of_any_kind_above_one_another():
    real, made = random_images(3, 8, 8, 1), random_images(2, 8, 8, 3, seed=1)
    picture = np.asarray(sheet({"real": real, "generated": made}))
    margin = picture.shape[1] - (3 * 66 + 2)
    assert picture.shape == (2 * 66 + 2, margin + 3 * 66 + 2, 3)
    for row, images in enumerate((real, made)):
        for i, image in enumerate(images):
            tile = picture[2 + 66 * row :, margin + 2 + 66 * i :][:64, :64]
            np.testing.assert_array_equal(tile, np.broadcast_to(enlarge(image, 8), (64, 64, 3)))


def test_a_long_row_of_a_sheet_goes_on_below():
    images = random_images(5, 8, 8, 1)
    assert sheet({"a": images, "b": images[:2]}, columns=2).height == 4 * 66 + 2


def test_captions_of_two_lines_are_both_written():
    states = random_images(2, 8, 8, 1)
    one, two = (np.asarray(strip(states, captions)) for captions in (["a", "b"], ["a\nc", "b\nd"]))
    line = one.shape[0] - 66
    assert two.shape == (one.shape[0] + line - 2, one.shape[1])
    np.testing.assert_array_equal(two[: 66 + 16], one[: 66 + 16])
    for left in (2, 68):
        assert (two[66 + line - 2 :, left : left + 64] < 100).any()  # the second line


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pairs_stand_side_by_side_under_their_names(channels):
    half, final = random_images(6, 8, 8, channels), random_images(6, 8, 8, channels, seed=1)
    picture = np.asarray(pairs(half, final, columns=2, gap=2))
    wide = np.asarray(to_pil(half[0])).shape[1] * 8
    top = picture.shape[0] - (3 * 66 + 2)
    assert top > 0
    assert picture.shape[1] == 4 * wide + 5 * 2 + 4 * 2  # pairs are further apart
    for i in range(6):
        y, x = top + 2 + 66 * (i // 2), 2 + (i % 2) * (2 * wide + 4 + 8)
        for state, left in ((half, x), (final, x + wide + 2)):
            np.testing.assert_array_equal(picture[y : y + 64, left : left + wide], enlarge(np.asarray(to_pil(state[i])), 8))
            assert picture[:top, left : left + wide].min() < 128  # its name
    with pytest.raises(UserError, match="equal shape"):
        pairs(half, final[:5])


def test_a_class_grid_has_a_row_to_each_class_and_a_number_to_each_column():
    images = random_images(6, 8, 8, 3)
    picture = np.asarray(class_grid(images, ["cat", "dog"], gap=2))
    top, left = picture.shape[0] - (2 * 66 + 2), picture.shape[1] - (3 * 66 + 2)
    for i, image in enumerate(images):
        y, x = top + 2 + 66 * (i // 3), left + 2 + 66 * (i % 3)
        np.testing.assert_array_equal(picture[y : y + 64, x : x + 64], enlarge(image, 8))
        assert picture[y : y + 64, :left].min() < 128
        assert picture[:top, x : x + 64].min() < 128
    assert np.array_equal(picture, class_grid(images, ["cat", "dog"], gap=2))
    assert not np.array_equal(picture, class_grid(images, ["cat", "dog"], first=5, gap=2))
    for names in ([], ["a", "b", "c", "d"]):
        with pytest.raises(UserError, match="as many images"):
            class_grid(images, names)


def test_long_names_keep_both_ends_and_stay_apart():
    long = [f"Chevrolet Silverado 1500 Hybrid Crew Cab {year}" for year in (2011, 2012)]
    assert shortened(long) == ["Chevrolet Si…ab 2011", "Chevrolet Si…ab 2012"]
    assert shortened(["short", "a\nb", "short"]) == ["short", "a?b", "short~2"]
    twice = shortened(["x" * 50, "x" * 50, "x" * 50])
    assert len(set(twice)) == 3
    assert max(map(len, twice)) <= 20


def test_letters_beyond_english_are_drawn():
    images = random_images(3, 8, 8, 1)
    accents = np.asarray(grid(images, columns=1, titles=["é", "σ", "я"]))
    left = accents.shape[1] - 68
    rows = [accents[2 + 66 * i : 66 + 66 * i, :left] for i in range(3)]
    assert not any(np.array_equal(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2)))  # a box for each, were they unknown


# motion


def test_an_animated_png_has_every_frame_and_colour_and_pauses_at_both_ends(tmp_path):
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    many = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), axis=2)  # 1,024 colours
    frames = [many, many[::-1], random_images(32, 32, 3), many]
    apng(frames, tmp_path / "a.apng", seconds=2.0, pause=1.0, scale=2, text={"seed": "7"})
    with Image.open(tmp_path / "a.apng") as picture:
        assert picture.text == {"seed": "7"}
        assert picture.info["loop"] == 0
        np.testing.assert_array_equal(picture, enlarge(many, 2))  # what a viewer without animations shows
        shown, durations = [], []
        for k in range(1, picture.n_frames):  # Pillow counts that one too
            picture.seek(k)
            shown.append(np.asarray(picture.convert("RGB")))
            durations.append(picture.info["duration"])
    assert durations == [1000, 500, 500, 1500]
    for seen, frame in zip(shown, frames, strict=True):
        np.testing.assert_array_equal(seen, enlarge(frame, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["a.apng"]


def test_an_animated_png_is_not_thinned(tmp_path):
    states = np.arange(200, dtype=np.uint8)[:, None, None, None].repeat(4, axis=1)
    apng(states, tmp_path / "a.apng", seconds=1.0, pause=0.0, scale=1)
    with Image.open(tmp_path / "a.apng") as picture:
        assert picture.n_frames == 201
        picture.seek(100)
        assert (picture.mode, picture.getpixel((0, 0)), picture.info["duration"]) == ("L", 99, 20)


def test_both_animations_stand_beside_the_grid(tmp_path):
    states = [random_images(4, 8, 8, 3, seed=s) for s in range(3)]
    made = save_grid(states[-1], tmp_path / "g.png", {"a": "b"}, states, ("gif", "apng"))
    assert [path.name for path in made] == ["g.png", "g.gif", "g.apng"]
    still = np.asarray(grid(states[-1]))
    for path in (made[0], made[2]):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(picture, still)
            assert picture.text == {"a": "b"}
    assert len(read_gif(made[1])[0]) == 3
    assert save_grid(states[-1], tmp_path / "h.png", {}, states, ()) == [tmp_path / "h.png"]


def read_gif(path):
    with Image.open(path) as picture:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(picture):
            frames.append(np.asarray(frame.convert("RGB")))
            durations.append(frame.info["duration"])
        return frames, durations, picture.info.get("loop")


def test_gray_frames_are_exact_and_loop_forever(tmp_path):
    states = random_images(7, 6, 5, 1)
    states[1] = np.arange(30).reshape(6, 5, 1)
    states[2] = states[1]
    states[2, 0, 0] = 255  # differs in one pixel only
    gif(states, tmp_path / "a.gif", scale=3)
    frames, _, loop = read_gif(tmp_path / "a.gif")
    assert loop == 0
    assert len(frames) == 7
    for frame, state in zip(frames, states, strict=True):
        np.testing.assert_array_equal(frame, np.broadcast_to(enlarge(state, 3), frame.shape))
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_durations_share_the_seconds_and_pause_at_both_ends(tmp_path):
    gif(random_images(7, 4, 4, 1), tmp_path / "a.gif", seconds=2.0, pause=1.0)
    _, durations, _ = read_gif(tmp_path / "a.gif")
    assert sum(durations) == 2000 + 500 + 1000
    assert durations[0] in (780, 790)
    assert durations[-1] in (1280, 1290)
    assert set(durations[1:-1]) <= {280, 290}


def test_no_frame_is_too_short_for_a_player(tmp_path):
    states = np.arange(200, dtype=np.uint8)[:, None, None, None].repeat(4, axis=1)
    gif(states, tmp_path / "a.gif", seconds=1.0, pause=0.0, scale=1)
    frames, durations, _ = read_gif(tmp_path / "a.gif")
    assert len(frames) == 50
    assert min(durations) == 20
    assert (frames[0].max(), frames[-1].max()) == (0, 199)


def test_few_colours_are_exact_and_many_are_near(tmp_path):
    few = random_images(3, 8, 8, 3)
    gif(few, tmp_path / "few.gif", scale=2)
    for frame, state in zip(read_gif(tmp_path / "few.gif")[0], few, strict=True):
        np.testing.assert_array_equal(frame, enlarge(state, 2))
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    many = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), axis=2)
    gif([many, many[::-1]], tmp_path / "many.gif", scale=1)
    for frame, state in zip(read_gif(tmp_path / "many.gif")[0], (many, many[::-1]), strict=True):
        error = frame.astype(float) - state
        assert np.abs(error).mean() < 8
        blocks = error.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))  # (8, 8, 3)
        assert np.abs(blocks).mean() < 0.4  # dithered: the colour is right on average, 0.2; without, 0.9


def test_frames_may_be_grids(tmp_path):
    grids = [grid(random_images(4, 8, 8, 1, seed=s)) for s in range(3)]
    gif(grids, tmp_path / "a.gif")
    frames, _, _ = read_gif(tmp_path / "a.gif")
    enlarged = [enlarge(np.asarray(g), 2) for g in grids]  # 134 pixels, twice, is nearest to 256
    np.testing.assert_array_equal(np.stack(frames)[..., 0], np.stack(enlarged))


def test_an_animation_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least one frame"):
        gif([], tmp_path / "a.gif")
    with pytest.raises(UserError, match="one size"):
        gif([Image.new("L", (2, 2)), Image.new("L", (2, 3))], tmp_path / "a.gif")
    with pytest.raises(UserError, match="seconds > 0"):
        gif(random_images(2, 2, 2, 1), tmp_path / "a.gif", seconds=0)
    assert not list(tmp_path.iterdir())


# curves


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"images": 128, "loss": 1.0, "held_out_loss": 1.1, "lr": 1e-4}],
        [{"event": "start"}, {"images": 0, "loss": float("inf"), "loss_bands": {"a": 0.1}}, {"images": 256, "lr": 0.0}],
        [{"images": 10 * i, "loss": 1e-3 if i == 50 else 5.0 / i - 0.2 * (i == 99)} for i in range(1, 100)],
    ],
)
def test_any_log_can_be_drawn(records, tmp_path):
    picture = loss_curve(records, tmp_path / "loss.png", title="a $ and a _")
    assert picture.size == (1600, 900)
    with Image.open(tmp_path / "loss.png") as read:
        np.testing.assert_array_equal(read, picture)


def test_a_repeated_stretch_of_the_log_is_drawn_once():
    records = [{"images": 100 * i, "loss": 1 / i} for i in range(1, 5)]
    resumed = [*records[:3], {"images": 400, "loss": 9.0}, *records[2:], {"images": 300, "held_out_loss": 0.5}]
    images, loss, held_out, lr = curves.columns(resumed)
    assert images.tolist() == [100, 200, 300, 400]
    assert loss.tolist() == [1, 1 / 2, 1 / 3, 1 / 4]
    np.testing.assert_array_equal(held_out, [np.nan, np.nan, 0.5, np.nan])
    assert np.isnan(lr).all()


def test_smoothing_is_a_weighted_mean_of_the_past_that_skips_what_is_not_finite():
    np.testing.assert_allclose(curves.smoothed(np.full(50, 3.0), 10), 3.0)  # from the first value on: no bias
    values = np.array([np.nan, 4.0, np.inf, 1.0])
    decay = 1 - 1 / (1 + 3 / 8)
    np.testing.assert_allclose(curves.smoothed(values, 5), [np.nan, 4, 4, (decay * 4 + 1) / (decay + 1)])
    np.testing.assert_allclose(curves.smoothed(values, 1), [np.nan, 4, 4, 1])


def test_smoothing_tames_noise():
    noise = np.random.default_rng(0).normal(size=2000)
    # An exponential mean over n values has the variance 1 / (2n - 1).
    assert curves.smoothed(noise, 20)[200:].std() == pytest.approx(39**-0.5, rel=0.1)


def blue(picture):
    """Where the first line runs: the pixels of its colour, (rows, columns)."""
    return np.nonzero((np.abs(np.asarray(picture).astype(int) - [47, 109, 179]) < 12).all(axis=2))


def test_the_axis_of_steps_is_that_of_images_divided_by_the_batch():
    records = [{"images": 100 * i, "loss": 1 / i} for i in range(1, 9)]
    steps = [{"images": i, "loss": 1 / i} for i in range(1, 9)]
    by_step = np.asarray(loss_curve(records, batch=100))
    np.testing.assert_array_equal(by_step, loss_curve(steps, batch=1))
    assert not np.array_equal(by_step, loss_curve(records))
    two = loss_curves({"a": records, "b": steps}, batches={"a": 100, "b": 1})
    np.testing.assert_array_equal(two, loss_curves({"a": steps, "b": steps}, batches={"a": 1, "b": 1}))


def test_runs_over_each_other_have_a_line_each_and_may_be_empty(tmp_path):
    high, low = ([{"images": 10 * i, "loss": level} for i in range(1, 30)] for level in (1.0, 2.0))
    picture = loss_curves({"a $": high, "_b": low, "empty": []}, tmp_path / "l.png")
    with Image.open(tmp_path / "l.png") as read:
        np.testing.assert_array_equal(read, picture)
    rows, columns = blue(picture)
    line = rows[columns == 800]  # in the middle of the picture, where no legend is
    swapped = blue(loss_curves({"a $": low, "_b": high, "empty": []}))
    assert line.min() > swapped[0][swapped[1] == 800].max()  # the lower loss stands further down
    assert loss_curves({"empty": []}).size == (1600, 900)
    with pytest.raises(UserError, match="one run or more"):
        loss_curves({})


def test_schedules_are_drawn_and_the_size_moves_what_is_lost(tmp_path):
    t = np.linspace(0, 1, 101)
    with np.errstate(divide="ignore"):
        log_snr = np.stack([2 * np.log((1 - t) / t), -6 - 14 * np.log(t)])
    alpha, sigma = np.stack([1 - t, np.ones(101)]), np.stack([t, 20 * t**7])
    picture = schedule_plot(["flow", "a $ b"], t, alpha, sigma, log_snr, (64, 64), tmp_path / "s.png")
    assert picture.size == (1600, 1600)
    with Image.open(tmp_path / "s.png") as read:
        np.testing.assert_array_equal(read, picture)
    assert not np.array_equal(picture, schedule_plot(["flow", "a $ b"], t, alpha, sigma, log_snr, (8, 8)))
    for names, values in (([], alpha[:0]), (["one"], alpha), (["one", "two"], alpha[:, 1:])):
        with pytest.raises(UserError, match="of the shape"):
            schedule_plot(names, t, values, sigma, log_snr)


def test_numbers_in_captions_are_short():
    numbers = {0.0: "0", 1.0: "1", 9999.0: "10000", 117.3: "120", 0.0123: "0.012", 4.04e-5: "4e-5", 1.55e10: "1.6e10"}
    assert {value: brief(value) for value in numbers} == numbers
    assert brief(np.inf) == "inf"
