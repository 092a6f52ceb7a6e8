"""Reads images and masks from disk, verifies them, and indexes which values occur in each mask.

Decoding a whole data set takes minutes, so the index is cached under a key made from the content it was read from.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from PIL import Image, JpegImagePlugin
from safetensors import SafetensorError
from tqdm import tqdm

from tasks.colours import ColourTable
from tasks.errors import InputError
from tasks.pixels import as_rgb, as_values, stored_as, turn_of

FORMAT = b"presence 2"  # part of the key: raise the number when what is checked or the cached table changes


_JPEG_END = b"\xff\xd9"  # the marker that a file lacks if it is cut
_TRANSPOSE = Image.Transpose
_SWAPPING = (_TRANSPOSE.ROTATE_90, _TRANSPOSE.ROTATE_270, _TRANSPOSE.TRANSPOSE, _TRANSPOSE.TRANSVERSE)


class Decoded(NamedTuple):
    """A file as Pillow decodes it."""

    image: Image.Image
    stored: str  # of `stored_as`
    turn: Image.Transpose | None  # of `turn_of`
    size: tuple[int, int]  # width and height of the whole file, not turned


def open_image(path: Path | str) -> Image.Image:
    """The fully decoded image in RGB, as a viewer shows it: EXIF's orientation is applied, depths as in `as_rgb`.

    Raises InputError naming the file if it is missing, cannot be decoded, or has pixels of no known white.
    """
    image, stored, turn, _ = _decode(path, "image")
    return _turned(as_rgb(image, stored, path), turn)


def read_image(path: Path | str) -> np.ndarray:
    """The pixels of `open_image`, uint8 (H, W, 3), for training, which reads an image again and again.

    Ordinary JPEGs are decoded by OpenCV: the same pixels (both have libjpeg-turbo) in half of the time. Raises as
    `open_image` does, which gets what is cut: OpenCV would fill it with grey.
    """
    content = _bytes_of_plain_jpeg(path)
    if content.endswith(_JPEG_END):
        import cv2  # a fifth of a second, for commands that read nothing

        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    return np.array(open_image(path))


def _bytes_of_plain_jpeg(path: Path | str) -> bytes:
    """Those of a JPEG in colour that is not to be turned, else none."""
    with suppress(Exception):  # `open_image` says what is wrong with it
        content = Path(path).read_bytes()
        with Image.open(BytesIO(content)) as image:
            if (image.format, image.mode, turn_of(image)) == ("JPEG", "RGB", None):
                return content
    return b""


def open_mask(path: Path | str, colours: ColourTable | None = None) -> Image.Image:
    """The fully decoded mask, whose pixel values are raw class ids (mode L, or P with the file's palette).

    Palette indices and grey values of any depth are ids; RGB is read by the colours of the data set, if it has any, and
    palettes must not contradict them. EXIF's orientation is applied as to images. Raises InputError naming the file if
    it is missing or cannot be decoded, and for pixels that are no ids.
    """
    mask, stored, turn, _ = _decode(path, "mask")
    return _turned(as_values(mask, stored, path, colours), turn)


def scan(
    items: Sequence[tuple[Path, Path]], valid_values: Iterable[int], workers: int, cache_dir: Path | None = None,
    colours: ColourTable | None = None,
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Which values occur in each mask, bool (items, 256), and the hex key of the content this was read from.

    items are (image path, mask path) pairs. Every pair is verified: both files exist and decode completely, their sizes
    agree, the mask holds one id per pixel and only valid_values, read with `colours` as by `open_mask`; else InputError
    names the file. The key covers the masks' bytes and the images' names and sizes in bytes, so only data of the same
    content shares a cache entry. The cache lies in cache_dir (default: css-presence in $XDG_CACHE_HOME or ~/.cache).
    """
    valid = np.isin(np.arange(256), list(valid_values))
    with ThreadPoolExecutor(max(1, workers)) as pool:  # threads do: file access and PIL's decoders release the GIL
        meaning = FORMAT + valid.tobytes() + (colours.digest() if colours else b"")
        key = hashlib.sha256(meaning + b"".join(pool.map(_digest, items))).hexdigest()
        path = (_default_cache_dir() if cache_dir is None else cache_dir) / f"{key}.safetensors"
        presence = _read_cache(path, len(items))
        if presence is None:
            rows = pool.map(partial(_values_of_pair, valid=valid, colours=colours), items)
            bar = tqdm(rows, "checking images and masks", len(items), unit="image", disable=None)
            presence = np.array(list(bar), dtype=bool).reshape(len(items), 256)
            _write_cache(path, presence)
    return presence, key


def _digest(item: tuple[Path, Path]) -> bytes:
    """Digest of the mask's bytes and the image's name and size; cheap, as nothing is decoded."""
    image, mask = item
    try:
        size = Path(image).stat().st_size
    except OSError as error:
        raise _unreadable("image", image, error) from error
    try:
        content = Path(mask).read_bytes()
    except OSError as error:
        raise _unreadable("mask", mask, error) from error
    head = f"{Path(image).name}\0{size}\0".encode()
    return hashlib.sha256(head + content).digest()


def _values_of_pair(item: tuple[Path, Path], valid: np.ndarray, colours: ColourTable | None) -> np.ndarray:
    """bool (256,): the values in the mask of one verified pair."""
    size, mask = _size_of_sound(item[0]), open_mask(item[1], colours)
    if size != mask.size:
        raise _sizes_differ(item, size, mask.size)
    values = np.array(mask.histogram()) > 0
    if (values & ~valid).any():
        outside = ", ".join(map(str, np.flatnonzero(values & ~valid)[:5]))
        grey = colours is not None and colours.greys[values].all()
        guess = "the grey values of class colours; save it as RGB, or re-save" if grey else "no class ids: re-save"
        known = ", ".join(map(str, np.flatnonzero(valid)))
        raise InputError(f"mask {item[1]} holds the value(s) {outside}, which are {guess} it with {known} only.")
    return values


def _size_of_sound(path: Path) -> tuple[int, int]:
    """Width and height of an image that `open_image` accepts; refuses what it refuses.

    A JPEG is decoded at an eighth of its size: all its bytes are read, and most of the computing is saved.
    """
    image, stored, turn, (width, height) = _decode(path, "image", small=True)
    as_rgb(image, stored, path)
    return (height, width) if turn in _SWAPPING else (width, height)


def _sizes_differ(item: tuple[Path, Path], image: tuple[int, int], mask: tuple[int, int]) -> InputError:
    sizes = f"mask {item[1]} is {mask[0]}x{mask[1]} pixels but its image {item[0]} is {image[0]}x{image[1]}"
    if image == mask[::-1] and any(_decode(path, "file").turn for path in item):
        return InputError(
            f"{sizes} as its EXIF orientation has it shown: turn both as a viewer shows the image, or remove the "
            "orientation from the file that has it."
        )
    return InputError(f"{sizes}: replace the one that is wrong.")


def _decode(path: Path | str, kind: str, small: bool = False) -> Decoded:
    try:
        with Image.open(path) as image:
            stored = stored_as(image)
            size = image.size
            if small and isinstance(image, JpegImagePlugin.JpegImageFile):
                image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
            else:
                image.load()
                size = image.size  # a TIFF is turned when it is loaded
            return Decoded(image, stored, turn_of(image), size)
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise _unreadable(kind, path, error) from error


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _unreadable(kind: str, path: Path | str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{kind} {path} is missing: restore it or take it off the list.")
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    return InputError(f"{kind} {path} cannot be read ({reason}): replace the file or take it off the list.")


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "css-presence"


def _read_cache(path: Path, num_images: int) -> np.ndarray | None:
    """The cached table, or None if there is none or the file is damaged."""
    try:
        tensors = safetensors.numpy.load_file(path)
        table, checksum = tensors["presence"], tensors["checksum"]
    except (OSError, KeyError, SafetensorError):
        return None
    if table.shape != (num_images, 256) or not np.array_equal(checksum, _checksum(table)):
        return None
    return table.astype(bool)


def _write_cache(path: Path, presence: np.ndarray) -> None:
    """Writes atomically. A cache that cannot be written only costs the next run its time, so errors are dropped."""
    table = presence.astype(np.uint8)
    data = safetensors.numpy.save({"presence": table, "checksum": _checksum(table)})
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink()


def _checksum(table: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(table.tobytes()).digest(), dtype=np.uint8)
