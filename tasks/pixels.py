"""What the pixels of a decoded file mean: the RGB that a viewer shows, and the raw values of a mask.

Pillow brings pixels of any depth to 8 bits as a viewer would, which is right for images of up to 8 bits and wrong for
class ids; how the file stores them (`stored_as`) says what has been done.
"""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from tasks.colours import ColourTable
from tasks.errors import InputError

ORIENTATION = 0x0112  # EXIF
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES = 258, 262, 284  # TIFF
_TURNS: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_GREY_STEP = {"1": 255, "L;2": 85, "L;4": 17}  # by which Pillow multiplies the values of fewer than 8 bits
_UNFIT = {"JPEG", "MPO", "WEBP", "JPEG2000", "AVIF", "GIF"}  # they change values, or count them anew
_ALMOST_BLACK = 16  # of 256; what 12 bits in a file of 16 look like


def stored_as(image: ImageFile.ImageFile) -> str:
    """How an opened file, not yet loaded, stores a pixel, in Pillow's words: "L;4" is grey of 4 bits."""
    if not image.tile:
        return ""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
        if max(bits) > 8 and len(bits) > 1 and image.tag_v2.get(PLANES) == 2:
            return "planes of 16 bits"
        if max(bits) > 8 and image.tag_v2.get(PHOTOMETRIC) == 0:
            return "16 bits of which 0 is white"
    codec, _, _, arguments = image.tile[0]
    name = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return f"{codec}:{name}" if codec.startswith("ppm") else str(name)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings a loaded image into the position in which a viewer shows it, by its EXIF orientation.

    Pillow itself turns TIFF files, and no others.
    """
    with suppress(Exception):  # EXIF that cannot be read is ignored, as viewers do; Pillow raises errors of many kinds
        return _TURNS.get(image.getexif().get(ORIENTATION))
    return None


def as_rgb(image: Image.Image, stored: str, path: Path | str) -> Image.Image:
    """The image in RGB of 8 bits.

    Transparency is dropped. Of 16 bits the upper 8 are taken (65535 is white); grey values that are nowhere above 255
    are 8 bits and stay.

    Raises InputError for floats, 32 bits, and 16 bits of which the upper 8 would leave almost nothing.
    """
    if " of " in stored:  # Pillow takes these planes for planes of 8 bits, and 0 for black
        raise InputError(f"image {path} has {stored}, which cannot be read: save it with 8 bits.")
    if image.mode == "F":
        raise InputError(f"image {path} holds floats, of which none is known to be white: save it with 8 bits.")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), path)).convert("RGB")
    if image.mode == "LAB":
        raise InputError(f"image {path} has the mode LAB, which is not read: save it as RGB.")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns of transparent palettes that become RGB in one step
    image = image if image.mode == "RGB" else image.convert("RGB")  # no copy of what may be large
    if re.search(r";16[BLN]$", stored) and np.asarray(image).max() < _ALMOST_BLACK:
        raise InputError(_dark(path, "16-bit colours"))
    return image


def as_values(mask: Image.Image, stored: str, path: Path | str, colours: ColourTable | None) -> Image.Image:
    """The raw values of a mask, mode P with the palette as it is stored, or L.

    Palette indices and grey values of any depth are values; RGB is read by `colours`; transparency is ignored. Raises
    InputError for everything else, for values above 255, and for a palette that contradicts `colours`.
    """
    if mask.format in _UNFIT or mask.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise InputError(f"mask {path} is a {mask.format} file, which may change class ids: save it as PNG.")
    scaled = stored.startswith("ppm")  # PGM and PPM whose largest value is neither 255 nor 65535
    if mask.mode == "P":
        if colours:
            colours.require_agreement(mask, str(path))
        return mask
    if mask.mode in ("1", "L") and not scaled:
        step = _GREY_STEP.get("1" if mask.mode == "1" else stored[:3], 1)
        return mask if step == 1 else mask.convert("L").point([value // step for value in range(256)])
    if (mask.mode == "F" or mask.mode.startswith("I")) and not scaled:
        return Image.fromarray(_ids(np.asarray(mask), path))
    if mask.mode == "LA":
        return mask.getchannel("L")
    if mask.mode in ("RGB", "RGBA") and colours and "16" not in stored and not scaled:
        return Image.fromarray(colours.values(np.asarray(mask)[..., :3], str(path)))
    raise InputError(
        f"mask {path} has mode {mask.mode}{f' ({stored})' if stored not in ('', mask.mode) else ''} instead of one "
        "class id per pixel: save it as a palette or 8-bit grey PNG."
    )


def _eight_bits(values: np.ndarray, path: Path | str) -> np.ndarray:
    """Grey values of at most 16 bits as uint8."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"image {path} holds values from {low} to {high}, not 0 to 65535: save it with 8 bits.")
    if high < 256:
        return values.astype(np.uint8)
    if high >> 8 < _ALMOST_BLACK:
        raise InputError(_dark(path, f"16-bit values of at most {high}"))
    return (values >> 8).astype(np.uint8)


def _dark(path: Path | str, what: str) -> str:
    return f"image {path} holds {what}, almost black where 65535 is white: save it with 8 bits, scaled by one factor."


def _ids(values: np.ndarray, path: Path | str) -> np.ndarray:
    """Values of more than 8 bits that are ids, as uint8."""
    outside = values[~np.isin(values, np.arange(256))]
    if len(outside):
        raise InputError(
            f"mask {path} holds the value {outside.flat[0]}, but class ids lie between 0 and 255: save class ids as an "
            "8-bit grey PNG."
        )
    return values.astype(np.uint8)
