"""A data set seen with the class ids of a model that was trained on another one: classes are matched by name."""

import hashlib
from collections.abc import Sequence

import numpy as np

from tasks.palette import distinct_palette, palette_of
from tasks.source import BACKGROUND, VOID, Source


class Renamed:
    """The images of `source` with the raw ids of `class_names`; classes that are not among these become background.

    Args:
        source: Where the images come from.
        class_names: By raw id, the background first.
        colours: RGB by raw id of the first of these classes; the others have those of the data set, if they are free.
    """

    def __init__(self, source: Source, class_names: Sequence[str], colours: Sequence[Sequence[int]] = ()) -> None:
        self.source, self.name = source, source.name
        self.class_names = list(class_names)
        self._ids = np.full(256, BACKGROUND, np.uint8)
        self._ids[VOID] = VOID
        for own, name in enumerate(source.class_names):
            if own and name in self.class_names:
                self._ids[own] = self.class_names.index(name)
        self._colours = [list(colour) for colour in colours]

    @property
    def palette(self) -> np.ndarray:
        """Colours by raw id, uint8 (256, 3)."""
        palette, own = distinct_palette().copy(), palette_of(self.source)
        palette[: len(self._colours)] = np.array(self._colours, np.uint8).reshape(-1, 3)
        taken = {tuple(colour) for colour in self._colours}
        for place, class_id in enumerate(self._ids[:VOID]):
            if class_id >= len(self._colours) and tuple(own[place].tolist()) not in taken:
                palette[class_id] = own[place]
        return palette

    def presence(self, split: str) -> np.ndarray:
        """See `tasks.source.Source`."""
        own = self.source.presence(split)
        presence = np.zeros_like(own)
        for place, class_id in enumerate(self._ids):
            presence[:, class_id] |= own[:, place]
        return presence

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """See `tasks.source.Source`."""
        image, mask = self.source.load(split, index)
        return image, self._ids[mask]

    def image_id(self, split: str, index: int) -> str:
        """See `tasks.source.Source`."""
        return self.source.image_id(split, index)

    def fingerprint(self) -> str:
        """See `tasks.source.Source`; of the data, and of what its classes are called here."""
        return hashlib.sha256(f"{self.class_names} {self.source.fingerprint()}".encode()).hexdigest()
