"""Masks as other programs write them: the right ids, or one sentence that names the file and the way out."""

import numpy as np
import pytest
from PIL import Image
from small_png import GREY_ALPHA, RGB, RGBA, write_raw_png

from tasks.colours import ColourTable
from tasks.datasets.voc import VALUES, colour_table, voc_palette
from tasks.errors import InputError
from tasks.reading import open_mask, scan

VOC = colour_table()
IDS = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 1, 3]], np.uint8)


def read(path, colours=VOC) -> np.ndarray:
    values = np.array(open_mask(path, colours))
    assert values.dtype == np.uint8 and values.ndim == 2
    return values


def refusal(path, colours=VOC) -> str:
    with pytest.raises(InputError) as caught:
        open_mask(path, colours)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and text.endswith(".")
    return text


def with_palette(ids: np.ndarray, colours) -> Image.Image:
    mask = Image.fromarray(ids.astype(np.uint8))
    mask.putpalette(np.asarray(colours, np.uint8).tobytes())
    return mask


def as_grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values)[:, None], 3, 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_values_of_any_depth_are_ids(bits, tmp_path):
    ids = np.arange(24).reshape(4, 6) % min(2**bits, 21)
    write_raw_png(tmp_path / "mask.png", ids, bits)
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), ids)


def test_void_of_8_and_16_bits_is_void_and_the_largest_of_4_bits_is_not(tmp_path):
    for bits, value in ((8, 255), (16, 255), (4, 15), (2, 3), (1, 1)):
        write_raw_png(tmp_path / "mask.png", np.full((2, 3), value), bits)
        assert (read(tmp_path / "mask.png") == value).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indices_of_palettes_of_any_depth_are_ids(bits, tmp_path):
    ids = np.arange(24).reshape(4, 6) % min(2**bits, 21)
    with_palette(ids, voc_palette()[: 2**bits]).save(tmp_path / "mask.png", bits=bits)
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), ids)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
def test_tiff_of_any_type_holds_ids(dtype, tmp_path):
    ids = (IDS > 0 if dtype is bool else IDS).astype(dtype)
    Image.fromarray(ids).save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), ids.astype(np.uint8))


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
@pytest.mark.parametrize("palette", [False, True])
def test_lossless_formats(ending, palette, tmp_path):
    (with_palette(IDS, voc_palette()) if palette else Image.fromarray(IDS)).save(tmp_path / f"mask.{ending}")
    np.testing.assert_array_equal(read(tmp_path / f"mask.{ending}"), IDS)


@pytest.mark.parametrize(
    ("values", "says"),
    [(np.full((2, 2), 26001, np.uint16), "26001"), (np.full((2, 2), 65535, np.uint16), "65535"),
     (np.full((2, 2), -1, np.int32), "-1"), (np.full((2, 2), 0.5, np.float32), "0.5"),
     (np.full((2, 2), np.nan, np.float32), "nan"), (np.full((2, 2), 256.0, np.float32), "256")],
)  # fmt: skip
def test_values_that_are_no_ids(values, says, tmp_path):
    Image.fromarray(values).save(tmp_path / "mask.tif")
    assert f"value {says}" in refusal(tmp_path / "mask.tif")


def test_grey_values_beside_opacity_are_ids(tmp_path):
    write_raw_png(tmp_path / "mask.png", np.stack([IDS, 255 - IDS], 2), 8, GREY_ALPHA)
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), IDS)


def test_a_transparent_palette_changes_no_id(tmp_path):
    with_palette(IDS, voc_palette()).save(tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), IDS)


def test_a_file_format_that_may_change_ids_is_refused(tmp_path):
    """GIF files hold renumbered colours: of a mask that is 5 everywhere, Pillow writes the index 0 with the grey 5."""
    Image.fromarray(np.full_like(IDS, 5)).save(tmp_path / "mask.gif")
    assert np.array(Image.open(tmp_path / "mask.gif")).max() == 0
    Image.fromarray(IDS).save(tmp_path / "mask.jpg", quality=100)
    Image.fromarray(voc_palette()[IDS]).save(tmp_path / "mask.webp")
    Image.fromarray(IDS).save(tmp_path / "mask.tif", compression="jpeg")
    for name, kind in (("mask.jpg", "JPEG"), ("mask.webp", "WEBP"), ("mask.tif", "TIFF"), ("mask.gif", "GIF")):
        assert f"is a {kind} file" in refusal(tmp_path / name)


def test_grey_values_that_pillow_scales_are_refused(tmp_path):
    for head, content in ((b"P5 4 3 20\n", IDS), (b"P5 4 3 1000\n", IDS.astype(">u2")), (b"P6 2 2 20\n", IDS)):
        (tmp_path / "mask.pgm").write_bytes(head + content.tobytes())
        assert np.array(Image.open(tmp_path / "mask.pgm")).max() > 30  # 3 of 20, of 1000
        assert "8-bit grey PNG" in refusal(tmp_path / "mask.pgm")
    for head, content in ((b"P5 4 3 255\n", IDS), (b"P5 4 3 65535\n", IDS.astype(">u2"))):
        (tmp_path / "mask.pgm").write_bytes(head + content.tobytes())
        np.testing.assert_array_equal(read(tmp_path / "mask.pgm"), IDS)


def test_colours_of_more_than_8_bits_or_of_other_kinds_are_refused(tmp_path):
    deep = np.stack([IDS] * 3, 2).astype(int)
    write_raw_png(tmp_path / "rgb.png", deep, 16, RGB)
    write_raw_png(tmp_path / "la.png", deep[..., :2], 16, GREY_ALPHA)
    Image.fromarray(voc_palette()[IDS]).convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("rgb.png", "la.png", "cmyk.tif"):
        assert "one class id per pixel" in refusal(tmp_path / name)


# colours


def test_rgb_masks_are_read_by_voc_colours(tmp_path):
    ids = np.resize(np.array(VALUES, np.uint8), (11, 13))
    Image.fromarray(voc_palette()[ids]).save(tmp_path / "rgb.png")
    opacity = np.random.default_rng(0).integers(0, 256, (*ids.shape, 1), np.uint8)
    write_raw_png(tmp_path / "rgba.png", np.concatenate([voc_palette()[ids], opacity], 2), 8, RGBA)
    for name in ("rgb.png", "rgba.png"):
        np.testing.assert_array_equal(read(tmp_path / name), ids)


def test_an_unknown_colour_is_named_with_its_place(tmp_path):
    pixels = voc_palette()[IDS]
    pixels[1, 2] = (127, 64, 10)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert "the colour #7f400a at x 2, y 1, which" in refusal(tmp_path / "mask.png")
    pixels[2] = [(9, 9, 9), (8, 8, 8), (9, 9, 9), (0, 0, 0)]
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert "#7f400a at x 2, y 1 and 2 more" in refusal(tmp_path / "mask.png")


def test_grey_ids_in_three_channels_are_no_colours(tmp_path):
    Image.fromarray(np.stack([IDS] * 3, 2)).save(tmp_path / "mask.png")
    assert "#010101" in refusal(tmp_path / "mask.png")


def test_colours_that_were_turned_into_grey_are_recognised(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "image.png")
    Image.fromarray(voc_palette()[IDS]).convert("L").save(tmp_path / "mask.png")
    items = [(tmp_path / "image.png", tmp_path / "mask.png")]
    with pytest.raises(InputError, match=r"38, 75, 113, which are the grey values of class colours; save it as RGB"):
        scan(items, VALUES, 1, tmp_path / "cache", VOC)
    Image.fromarray(IDS + 36).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="36, 37, 38, 39, which are no class ids"):
        scan(items, VALUES, 1, tmp_path / "cache", VOC)


def test_a_data_set_has_colours_of_its_own(tmp_path):
    own = ColourTable({0: (255, 255, 255), 7: (10, 20, 30), 9: (255, 0, 0)}, {0: "background", 7: "leaf", 9: "stem"})
    values = np.array([[0, 7], [9, 7]], np.uint8)
    colour = {0: (255, 255, 255), 7: (10, 20, 30), 9: (255, 0, 0)}
    pixels = np.array([[colour[value] for value in row] for row in values.tolist()], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png", own), values)
    assert "#ffffff" in refusal(tmp_path / "mask.png", VOC)
    assert "one class id per pixel" in refusal(tmp_path / "mask.png", None)  # a data set without colours


def test_two_values_of_one_colour_are_refused():
    with pytest.raises(InputError, match="'leaf' and 'stem' have the same colour #0a141e"):
        ColourTable({1: (10, 20, 30), 2: (10, 20, 30)}, {1: "leaf", 2: "stem"})


@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 53, 3)])
def test_every_pixel_of_24_bits_is_compared(shape):
    """Against a slow dictionary, over colours that differ from those of the table in one bit."""
    table = {tuple(voc_palette()[value].tolist()): value for value in VALUES}
    rng = np.random.default_rng(1)
    pixels = voc_palette()[rng.choice(VALUES, shape[:2])]
    expected = [[table[tuple(pixel)] for pixel in row] for row in pixels.tolist()]
    np.testing.assert_array_equal(VOC.values(pixels, "mask"), expected)
    for channel in range(3):
        for bit in range(8):
            other = pixels.copy()
            other[-1, -1, channel] ^= 1 << bit
            if tuple(other[-1, -1].tolist()) not in table:
                with pytest.raises(InputError, match=f"x {shape[1] - 1}, y {shape[0] - 1}"):
                    VOC.values(other, "mask")


# palettes


def test_a_palette_of_voc_colours_at_other_indices_is_refused(tmp_path):
    """As Pillow's quantize() and some exporters write it."""
    Image.fromarray(voc_palette()[IDS]).quantize().save(tmp_path / "mask.png")
    assert len(np.unique(np.array(Image.open(tmp_path / "mask.png")))) == 4
    text = refusal(tmp_path / "mask.png")
    assert "has the colour of 'b" in text and "whose id is" in text and "RGB" in text
    Image.open(tmp_path / "mask.png").convert("RGB").save(tmp_path / "mask.png")  # the way out
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), IDS)


@pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 3), (0, 3), (3, 255)])
def test_two_swapped_colours_are_enough(one, other, tmp_path):
    palette = voc_palette()
    palette[[one, other]] = palette[[other, one]]
    with_palette(IDS, palette).save(tmp_path / "mask.png")
    assert "whose id is" in refusal(tmp_path / "mask.png")


def test_grey_values_that_were_renumbered_are_refused(tmp_path):
    """As programs that make files small write a grey mask: indices count the values that occur."""
    held, indices = np.unique(np.where(IDS == 3, 255, IDS * 5), return_inverse=True)
    with_palette(indices.reshape(IDS.shape), as_grey(held)).save(tmp_path / "mask.png")
    assert "index 1 has the grey value 5" in refusal(tmp_path / "mask.png")
    with_palette(indices.reshape(IDS.shape), as_grey(np.arange(21) * 12)).save(tmp_path / "mask.png")  # a picture
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), indices.reshape(IDS.shape))


def test_indices_that_the_mask_does_not_use_may_have_any_colour(tmp_path):
    palette = voc_palette()
    palette[[4, 5]] = palette[[5, 4]]
    with_palette(IDS, palette).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), IDS)


GREY_RAMP = as_grey(np.arange(256))
RED_ALONE = [[0, 0, 0], [255, 0, 0], *[[0, 0, 0]] * 254]
RANDOM = np.random.default_rng(3).integers(1, 64, (256, 3))  # no colour of VOC's classes
WHITE_BACKGROUND = np.concatenate([[[255, 255, 255]], RANDOM[:6], np.zeros((249, 3))])


@pytest.mark.parametrize(
    "palette",
    [voc_palette(), GREY_RAMP, 255 - GREY_RAMP, RANDOM, RED_ALONE, WHITE_BACKGROUND, as_grey([0, 255, *[0] * 254])],
    ids=["voc", "grey", "inverted grey", "random", "one colour", "white background, filled up", "black and white"],
)  # fmt: skip
def test_palettes_of_other_colours_mean_nothing(palette, tmp_path):
    ids = np.where(IDS == 2, 255, IDS)
    with_palette(ids, palette).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), ids)


def test_an_index_beyond_a_short_palette_has_no_colour():
    for palette, contradicts in (([[0, 0, 0], [128, 0, 0]], False), ([[0, 0, 0], [0, 128, 0]], True)):
        mask = with_palette(IDS, palette)
        if contradicts:
            with pytest.raises(InputError, match="mask m: index 1 has the colour of 'bicycle', whose id is 2"):
                VOC.require_agreement(mask, "m")
        else:
            VOC.require_agreement(mask, "m")


def test_without_colours_no_palette_is_compared(tmp_path):
    with_palette(IDS, voc_palette()[[1, 0, 3, 2]]).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png", None), IDS)


def test_colours_are_part_of_the_key_of_the_cache(tmp_path):
    """What was checked without colours may contradict them."""
    Image.new("RGB", (4, 3)).save(tmp_path / "image.png")
    with_palette(IDS, voc_palette()[[1, 0, 3, 2]]).save(tmp_path / "mask.png")
    items = [(tmp_path / "image.png", tmp_path / "mask.png")]
    presence, _ = scan(items, VALUES, 1, tmp_path / "cache")
    assert np.flatnonzero(presence[0]).tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="index 0 has the colour of 'aeroplane'"):
        scan(items, VALUES, 1, tmp_path / "cache", VOC)


def test_a_palette_seen_before_is_compared_with_what_the_next_mask_uses(tmp_path):
    """And so are those of a data set in which every mask has one of its own."""
    table = ColourTable({0: (0, 0, 0), 1: (9, 0, 0), 2: (0, 9, 0)}, {1: "red", 2: "green"})
    for number in range(70):  # more than are remembered
        swapped = [(0, 0, 0), (0, 9, 0), (9, 0, 0), (number, 77, 77)]
        table.require_agreement(with_palette(np.array([[0, 3]], np.uint8), swapped), "a.png")
        with pytest.raises(InputError, match="index 1 has the colour of 'green', whose id is 2"):
            table.require_agreement(with_palette(np.array([[0, 1]], np.uint8), swapped), "a.png")
