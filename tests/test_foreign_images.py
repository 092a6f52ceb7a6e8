"""Photographs as cameras and programs write them: the pixels that a viewer shows, or one sentence."""

import re
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_png import GREY_ALPHA, RGB, RGBA, write_raw_png
from small_voc import css, read_results, run_arguments

from tasks.datasets.voc import IMAGES, LISTS, MASKS, VALUES, Voc, colour_table
from tasks.errors import InputError
from tasks.reading import _size_of_sound, open_image, open_mask, read_image, scan

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)
PIXELS[0, 0] = 255
GREY = PIXELS[..., 0]
IDS = np.random.default_rng(1).integers(0, 4, (10, 14), np.uint8)


def read(path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(read_image(path), np.array(image))  # what training sees
    return np.array(image)


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        open_image(path)
    text = str(caught.value)
    with pytest.raises(InputError, match=re.escape(text)):
        read_image(path)
    assert f"image {path} " in text and "\n" not in text and text.endswith(".")
    return text


def as_grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values)[..., None], 3, 2)


# JPEG, which training has decoded by OpenCV


@pytest.mark.parametrize("subsampling", [0, 1, 2])  # 4:4:4, 4:2:2, 4:2:0
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_has_the_same_pixels_in_training(subsampling, progressive, tmp_path, monkeypatch):
    noise = np.random.default_rng(2).integers(0, 256, (37, 51, 3), np.uint8)
    path = tmp_path / "image.jpg"
    Image.fromarray(noise).save(path, quality=90, subsampling=subsampling, progressive=progressive)
    expected = read(path)
    monkeypatch.setattr("tasks.reading.open_image", None)  # not called: it would be the slower way
    np.testing.assert_array_equal(read_image(path), expected)


def test_a_jpeg_that_is_cut_is_refused_in_training_too(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(PIXELS.repeat(9, 0).repeat(9, 1)).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-200])
    assert "truncated" in refusal(path)
    (tmp_path / "none.jpg").write_bytes(b"")
    refusal(tmp_path / "none.jpg")


# depths


@pytest.mark.parametrize("factor", [256, 257])  # both are in use
@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_brought_to_8(ending, factor, tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * factor).save(tmp_path / f"image.{ending}")
    np.testing.assert_array_equal(read(tmp_path / f"image.{ending}"), as_grey(GREY))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_that_hold_8_stay(ending, tmp_path):
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / f"image.{ending}")
    np.testing.assert_array_equal(read(tmp_path / f"image.{ending}"), as_grey(GREY))


@pytest.mark.parametrize(("kind", "channels"), [(RGB, 3), (RGBA, 4), (GREY_ALPHA, 2)])
def test_16_bit_colours_are_brought_to_8(kind, channels, tmp_path):
    values = np.dstack([PIXELS, GREY])[..., 4 - channels :].astype(int)
    write_raw_png(tmp_path / "image.png", values * 257, 16, kind)
    expected = values[..., :3] if channels > 2 else as_grey(values[..., 0])
    np.testing.assert_array_equal(read(tmp_path / "image.png"), expected)
    write_raw_png(tmp_path / "image.png", values * 15, 16, kind)
    assert "almost black" in refusal(tmp_path / "image.png")


def test_12_bits_in_a_file_of_16_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "image.png")
    assert "16-bit values of at most 4080, almost black" in refusal(tmp_path / "image.png")


@pytest.mark.parametrize(
    ("values", "says"),
    [(GREY.astype(np.float32) / 255, "floats"), (GREY.astype(np.int32) - 300, "from -299 to -45"),
     (GREY.astype(np.int32) * 2**20, "not 0 to 65535")],
)  # fmt: skip
def test_values_without_a_known_white_are_refused(values, says, tmp_path):
    Image.fromarray(values).save(tmp_path / "image.tif")
    assert says in refusal(tmp_path / "image.tif")


def test_32_bit_files_of_16_bit_values(tmp_path):
    Image.fromarray(GREY.astype(np.int32) * 257).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(read(tmp_path / "image.tif"), as_grey(GREY))


def write_raw_tiff(path, planes: np.ndarray, photometric: int) -> None:
    """A little-endian TIFF of 16 bits whose planes (channels, H, W) follow each other."""
    planes = planes.astype("<u2")
    count, height, width = planes.shape
    size, start = planes[0].nbytes, 8
    extra = start + planes.nbytes  # where lists of more than two numbers lie
    entries = [
        (256, 3, [width]), (257, 3, [height]), (258, 3, [16] * count), (259, 3, [1]), (262, 3, [photometric]),
        (273, 4, [start + size * plane for plane in range(count)]), (277, 3, [count]), (278, 3, [height]),
        (279, 4, [size] * count), (284, 3, [2 if count > 1 else 1]),
    ]  # fmt: skip
    lists, table = b"", b""
    for tag, kind, values in entries:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        field = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", extra + len(lists))
        lists += packed if len(packed) > 4 else b""
        table += struct.pack("<HHI", tag, kind, len(values)) + field
    head = struct.pack("<2sHI", b"II", 42, extra + len(lists))
    body = planes.tobytes() + lists + struct.pack("<H", len(entries)) + table + bytes(4)
    path.write_bytes(head + body)


def test_tiff_that_pillow_misreads_is_refused(tmp_path):
    """Planes of 16 bits are read as planes of 8, and 0 as black where the file says that it is white."""
    write_raw_tiff(tmp_path / "image.tif", PIXELS.transpose(2, 0, 1).astype(int) * 257, photometric=2)
    assert "planes of 16 bits" in refusal(tmp_path / "image.tif")
    with pytest.raises(InputError, match="planes of 16 bits"):
        open_mask(tmp_path / "image.tif", colour_table())
    write_raw_tiff(tmp_path / "image.tif", GREY[None].astype(int) * 257, photometric=0)
    assert "16 bits of which 0 is white" in refusal(tmp_path / "image.tif")
    write_raw_tiff(tmp_path / "image.tif", GREY[None].astype(int) * 257, photometric=1)
    np.testing.assert_array_equal(read(tmp_path / "image.tif"), as_grey(GREY))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_spans_black_to_white(bits, tmp_path):
    """Unlike ids: the largest value is white."""
    values = np.arange(30).reshape(5, 6) % 2**bits
    write_raw_png(tmp_path / "image.png", values, bits)
    np.testing.assert_array_equal(read(tmp_path / "image.png"), as_grey(values * 255 // (2**bits - 1)))


def test_transparency_is_dropped(tmp_path):
    opacity = np.random.default_rng(2).integers(0, 256, GREY.shape, np.uint8)
    Image.fromarray(np.dstack([PIXELS, opacity])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read(tmp_path / "rgba.png"), PIXELS)
    Image.fromarray(np.dstack([GREY, opacity])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read(tmp_path / "la.png"), as_grey(GREY))
    palette = Image.fromarray(IDS)
    palette.putpalette(PIXELS[0, :4].tobytes())
    palette.save(tmp_path / "p.png", transparency=bytes([0, 100, 255, 30]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(tmp_path / "p.png"), PIXELS[0, :4][IDS])


def test_cmyk(tmp_path):
    smooth = np.linspace(40, 210, 3 * 32 * 32).reshape(3, 32, 32).transpose(1, 2, 0).astype(np.uint8)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "image.jpg", quality=100)
    assert np.abs(read(tmp_path / "image.jpg").astype(int) - smooth).max() < 8
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    assert "LAB" in refusal(tmp_path / "lab.tif")


# EXIF


def oriented(image: Image.Image, path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    image.save(path, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_images_and_masks_are_turned_as_a_viewer_shows_them(orientation, ending, tmp_path):
    oriented(Image.fromarray(PIXELS), tmp_path / f"image.{ending}", orientation)
    shown = np.array(ImageOps.exif_transpose(Image.open(tmp_path / f"image.{ending}")))
    np.testing.assert_array_equal(read(tmp_path / f"image.{ending}"), shown)
    assert (shown.shape == PIXELS.shape) == (orientation < 5)
    if ending != "jpg":
        oriented(Image.fromarray(IDS), tmp_path / f"mask.{ending}", orientation)
        turned = np.array(ImageOps.exif_transpose(Image.open(tmp_path / f"mask.{ending}")))
        np.testing.assert_array_equal(np.array(open_mask(tmp_path / f"mask.{ending}")), turned)
        assert (turned == IDS).all() == (orientation == 1) if turned.shape == IDS.shape else orientation > 4


def test_exif_by_hand(tmp_path):
    """Orientation 6: the first row of the file is the right side of the photograph."""
    oriented(Image.fromarray(PIXELS), tmp_path / "image.png", 6)
    np.testing.assert_array_equal(read(tmp_path / "image.png")[:, -1], PIXELS[0])


@pytest.mark.parametrize("content", [b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_is_ignored(content, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.jpg", exif=b"Exif\0\0" + content)
    plain = np.array(Image.open(tmp_path / "image.jpg"))
    np.testing.assert_array_equal(read(tmp_path / "image.jpg"), plain)
    for orientation in (0, 9):
        oriented(Image.fromarray(PIXELS), tmp_path / "image.png", orientation)
        np.testing.assert_array_equal(read(tmp_path / "image.png"), PIXELS)


def test_a_mask_of_the_size_before_turning_names_exif(tmp_path):
    image, mask = tmp_path / "image.jpg", tmp_path / "mask.png"
    oriented(Image.fromarray(PIXELS), image, 6)
    Image.fromarray(IDS).save(mask)
    with pytest.raises(InputError) as caught:
        scan([(image, mask)], VALUES, 1, tmp_path / "cache")
    text = str(caught.value)
    assert "EXIF" in text and str(image) in text and str(mask) in text and "14x10" in text and "10x14" in text
    Image.fromarray(IDS).transpose(Image.Transpose.ROTATE_270).save(mask)
    scan([(image, mask)], VALUES, 1, tmp_path / "cache")
    Image.fromarray(PIXELS.transpose(1, 0, 2)).save(tmp_path / "image.png")  # no EXIF: another sentence
    Image.fromarray(IDS).save(mask)
    with pytest.raises(InputError, match="replace the one that is wrong"):
        scan([(tmp_path / "image.png", mask)], VALUES, 1, tmp_path / "cache")


# the program


def test_training_sees_image_and_mask_turned_together(data, tmp_path):
    """The same photographs stored upside down are the same data to every later step."""
    name = (data / LISTS["train"]).read_text().split()[0]
    image, mask = Voc(data).load("train", 0)
    stored = data / IMAGES / f"{name}.png"
    oriented(Image.fromarray(image[::-1, ::-1].copy()), stored, 3)
    lines = (data / LISTS["train"]).read_text().splitlines()
    (data / LISTS["train"]).write_text("\n".join([f"{IMAGES}/{name}.png {MASKS}/{name}.png", *lines[1:]]))
    turned = Voc(data)
    np.testing.assert_array_equal(turned.load("train", 0)[0], image)
    np.testing.assert_array_equal(turned.load("train", 0)[1], mask)
    np.testing.assert_array_equal(turned.presence("train")[0], np.isin(np.arange(256), mask))


def test_predict_sees_what_training_sees(data, tmp_path):
    run = tmp_path / "runs" / "run"
    assert css(*run_arguments(data, run.parent, "run", "--method", "finetune", protocol="2-1")).code == 0
    assert read_results(run)["complete"]
    pixels = np.array(Image.open(data / IMAGES / "test_001.jpg"))
    grey = pixels[..., 0]
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    oriented(Image.fromarray(np.rot90(pixels).copy()), tmp_path / "turned.png", 6)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    images = [tmp_path / f"{name}.png" for name in ("plain", "turned", "grey", "deep")]
    assert css("predict", run, *images, "--out", tmp_path / "out").code == 0
    masks = [np.array(Image.open(tmp_path / "out" / f"{image.stem}_mask.png")) for image in images]
    overlays = [np.array(Image.open(tmp_path / "out" / f"{image.stem}_overlay.png")) for image in images]
    for first, second in ((0, 1), (2, 3)):
        np.testing.assert_array_equal(masks[first], masks[second])
        np.testing.assert_array_equal(overlays[first], overlays[second])
    assert len(np.unique(masks[0])) > 1 and masks[0].shape == grey.shape and grey.shape[0] != grey.shape[1]
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
    refused = css("predict", run, tmp_path / "float.tif", "--out", tmp_path / "none")
    assert refused.code == 2 and "float.tif holds floats" in refused.complaint and not (tmp_path / "none").exists()


# the check of a data set, which decodes a JPEG at an eighth


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(5, 3), (64, 40), (83, 57)], ids=str)
@pytest.mark.parametrize("progressive", [False, True])
def test_the_check_sees_the_size_of_the_whole_image(mode, size, progressive, tmp_path):
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise(size, 80).convert(mode).save(path, progressive=progressive, exif=exif)
    assert _size_of_sound(path) == open_image(path).size == size[::-1]


@pytest.mark.parametrize("progressive", [False, True])
def test_the_check_refuses_a_jpeg_that_is_cut(progressive, tmp_path):
    """Near its end, too: not only what an eighth of the pixels would need is read."""
    path = tmp_path / "image.jpg"
    Image.effect_noise((300, 200), 80).save(path, progressive=progressive)
    whole = path.read_bytes()
    for share in (0.3, 0.9, 0.97):
        path.write_bytes(whole[: int(len(whole) * share)])
        for reading in (open_image, _size_of_sound):
            with pytest.raises(InputError, match=r"image\.jpg cannot be read"):
                reading(path)
