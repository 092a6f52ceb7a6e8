"""A folder with data.yaml as a `tasks.source.Source`."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import InputError
from tasks.folder import description
from tasks.folder.pairs import pairs
from tasks.reading import open_mask, read_image, scan

SPLITS = {"train": "train", "test": "val"}  # of a source, by name in data.yaml


class Folder:
    """Images and masks as data.yaml says; raw class ids are 1, 2, ... in the order of the mask values.

    Raises InputError if data.yaml, a folder or a mask is missing, or if both splits have an image in common; images and
    masks are only verified by the scan that the first presence() or fingerprint() makes.
    """

    def __init__(self, root: Path, given: description.Description | None = None) -> None:
        root = Path(root)
        self.description = given or description.read(root)
        self.name = self.description.name
        self.class_names = self.description.class_names
        self._items = {split: _as_text(pairs(root, getattr(self.description, key))) for split, key in SPLITS.items()}
        self._ids = self.description.ids
        self._colours = self.description.colour_table
        self._scans: dict[str, tuple[np.ndarray, str]] = {}
        _require_apart(self._items, root)

    @property
    def palette(self) -> np.ndarray:
        """Colours by raw class id, uint8 (256, 3)."""
        return self.description.palette

    def presence(self, split: str) -> np.ndarray:
        """bool (images, 256): which raw class ids occur in the mask of each image of the split."""
        values = self._scan(split)[0]
        presence = np.zeros_like(values)
        for value in self.description.values:
            presence[:, self._ids[value]] |= values[:, value]
        return presence

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and mask uint8 (H, W) of raw class ids. InputError if a file cannot be decoded."""
        _, image, mask = self._items[split][index]
        return read_image(image), self._ids[np.array(open_mask(mask, self._colours))]

    def image_id(self, split: str, index: int) -> str:
        """The name that image and mask share, such as "street/0001"."""
        return self._items[split][index][0]

    def fingerprint(self) -> str:
        """Hex digest of the masks' content, of the images' names and sizes, and of what the mask values mean."""
        meaning = f"{self.description.names} {self.description.background} {self.description.void}"
        return hashlib.sha256("".join([meaning, *(self._scan(split)[1] for split in SPLITS)]).encode()).hexdigest()

    def _scan(self, split: str) -> tuple[np.ndarray, str]:
        if split not in self._scans:
            items = [(Path(image), Path(mask)) for _, image, mask in self._items[split]]
            self._scans[split] = scan(items, self.description.values, os.cpu_count() or 1, colours=self._colours)
        return self._scans[split]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scans": {}}  # loader workers do not need the presence tables


def _as_text(items: list[tuple[str, Path, Path]]) -> list[tuple[str, str, str]]:
    """Paths as strings, because they travel to every loader worker."""
    return [(name, str(image), str(mask)) for name, image, mask in items]


def _require_apart(items: dict[str, list[tuple[str, str, str]]], root: Path) -> None:
    train, val = ({os.path.realpath(image): name for name, image, _ in items[split]} for split in SPLITS)
    shared = sorted(train[path] for path in train.keys() & val.keys())
    if shared:
        raise InputError(
            f"{root / description.FILE}: {len(shared)} of {len(val)} validation images are training images as well, "
            f"for example {shared[0]}: take them off one of the two lists."
        )
