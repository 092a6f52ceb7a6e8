"""Masks whose colours say what a pixel is: a table of colours, and palettes that contradict it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tasks.errors import InputError
from tasks.source import VOID

Colour = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_PALETTES = 64  # that are remembered


class ColourTable:
    """The colours that a data set gives to the values of its masks.

    Args:
        colours: RGB by mask value (0 to 255). Raises InputError if two values have the same.
        names: What each value is called in sentences, for instance "bird".
    """

    def __init__(self, colours: Mapping[int, Sequence[int]], names: Mapping[int, str]) -> None:
        self.names = dict(names)
        self._value_of: dict[Colour, int] = {}
        for value, (red, green, blue) in colours.items():
            other = self._value_of.setdefault((int(red), int(green), int(blue)), value)
            if other != value:
                raise InputError(
                    f"{self._name(other)} and {self._name(value)} have the same colour "
                    f"{_hex((red, green, blue))}: give each class its own."
                )
        self._greys = {(value, value, value): value for value in colours if value != VOID}
        table = Image.fromarray(np.array([list(self._value_of)], np.uint8)).convert("L")
        self.greys = np.isin(np.arange(256), np.asarray(table))  # which values an RGB mask has after convert("L")
        self._found: dict[bytes, tuple[bool, dict[int, int]]] = {}
        packed = {_pack(np.array(colour)).item(): value for colour, value in self._value_of.items()}
        self._keys = np.array(sorted(packed), np.uint32)
        self._values = np.array([packed[key] for key in self._keys.tolist()], np.uint8)

    def digest(self) -> bytes:
        """Of colours and values, as part of a key."""
        return hashlib.sha256(self._keys.tobytes() + self._values.tobytes()).digest()

    def values(self, pixels: np.ndarray, mask: str) -> np.ndarray:
        """Mask values, uint8 (H, W), of RGB pixels uint8 (H, W, 3). InputError with the first unknown colour's place.

        Args:
            pixels: What the file holds.
            mask: Its name, for the sentence.
        """
        packed = _pack(pixels)
        place = np.searchsorted(self._keys, packed).clip(max=len(self._keys) - 1)
        unknown = self._keys[place] != packed
        if unknown.any():
            row, column = np.argwhere(unknown)[0].tolist()
            more = len(np.unique(packed[unknown])) - 1
            raise InputError(
                f"mask {mask} has the colour {_hex(pixels[row, column])} at x {column}, y {row}"
                f"{f' and {more} more' if more else ''}, which no class has: use the colours of the classes without "
                "smoothing, or save class ids as an 8-bit grey PNG."
            )
        return self._values[place]

    def require_agreement(self, mask: Image.Image, path: str) -> None:
        """Raises InputError if the palette of a mask (mode P) gives an index the colour of another value.

        Then ids are permuted. So are they where a grey mask was saved with a palette of the values that occur (but
        black and white picture 0 and 1). Indices that do not occur and other colours mean nothing, and neither does
        black where an entry seems to be unset.
        """
        greys, suspects = self._suspects(bytes(mask.getpalette() or []))
        used = mask.histogram() if suspects else []
        for index, meant in suspects.items():
            if used[index]:
                what = f"grey value {meant}" if greys else f"colour of {self._name(meant)}, whose id is {meant}"
                way = "8-bit grey" if greys else "RGB, which is read by colour"
                raise InputError(
                    f"mask {path}: index {index} has the {what}, so the indices of its palette are no class ids: save "
                    f"it as {way}, or with the ids as indices."
                )

    def _suspects(self, numbers: bytes) -> tuple[bool, dict[int, int]]:
        """Whether a palette is one of grey values, and which indices have the colour of which other value.

        The masks of a data set share a handful of palettes, so what was found is kept.
        """
        if numbers in self._found:
            return self._found[numbers]
        palette = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False))
        greys = all(colour in self._greys or colour == WHITE for colour in palette)
        value_of = self._greys if greys else self._value_of
        other = [index for index, colour in enumerate(palette) if value_of.get(colour, index) != index]
        found = greys, {index: value_of[palette[index]] for index in other if not _unset(palette, index)}
        if len(self._found) < _PALETTES:
            self._found[numbers] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": {}}  # a loader worker finds it again

    def _name(self, value: int) -> str:
        return repr(self.names.get(value, f"value {value}"))


def _unset(palette: Sequence[Colour], index: int) -> bool:
    """Black beside a black index 0, or one of those that fill up a palette, or at void: no sign of another value."""
    if palette[index] != BLACK or index == 0:
        return False
    return palette[0] == BLACK or index == VOID or all(colour == BLACK for colour in palette[index - 1 :])


def _pack(pixels: np.ndarray) -> np.ndarray:
    """RGB (..., 3) as one number of 24 bits each, uint32 (...)."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)
