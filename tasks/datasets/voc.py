"""PASCAL VOC 2012 with the augmented segmentation masks, in the official folder layout."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tasks.colours import ColourTable
from tasks.errors import InputError
from tasks.lists import read_list, require_apart
from tasks.reading import open_mask, read_image, scan
from tasks.source import VOID

CLASS_NAMES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
LISTS = {"train": "ImageSets/Segmentation/train_aug.txt", "test": "ImageSets/Segmentation/val.txt"}
VALUES = [*range(len(CLASS_NAMES)), VOID]  # that a mask may hold
IMAGES, MASKS = "JPEGImages", "SegmentationClassAug"


class Voc:
    """VOC 2012 as a `tasks.source.Source`: train is train_aug.txt, test is val.txt.

    root holds JPEGImages, SegmentationClassAug and ImageSets/Segmentation, or contains VOCdevkit/VOC2012 or VOC2012
    that does. A list holds one image a line: an id, or "image mask" as paths relative to that folder (PLOP's format);
    `tasks.lists.read_list` says what else is understood.

    Raises InputError if folders or lists are missing or malformed, or have images in common; images and masks are only
    verified by the scan that the first presence() or fingerprint() makes.
    """

    name = "voc"

    def __init__(self, root: Path) -> None:
        self.class_names = list(CLASS_NAMES)
        self._root = locate(Path(root))
        self._items = {split: read_list(self._root / path, self._root, IMAGES, MASKS) for split, path in LISTS.items()}
        require_apart(self._items["train"], self._items["test"], *(self._root / LISTS[split] for split in LISTS))
        self._colours = colour_table()
        self._scans: dict[str, tuple[np.ndarray, str]] = {}

    @property
    def palette(self) -> np.ndarray:
        """Colours by raw class id, uint8 (256, 3)."""
        return voc_palette()

    def presence(self, split: str) -> np.ndarray:
        """bool (images, 256): which values occur in the mask of each image of the split."""
        return self._scan(split)[0]

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and mask uint8 (H, W) of raw class ids. InputError if a file cannot be decoded."""
        _, image, mask = self._items[split][index]
        return read_image(self._root / image), np.array(open_mask(self._root / mask, self._colours))

    def image_id(self, split: str, index: int) -> str:
        """Path of the image file below JPEGImages without its ending, such as 2007_000032."""
        return self._items[split][index].name

    def fingerprint(self) -> str:
        """Hex digest of the masks' content and of the images' names and sizes in both splits."""
        return hashlib.sha256("".join(self._scan(split)[1] for split in LISTS).encode()).hexdigest()

    def _scan(self, split: str) -> tuple[np.ndarray, str]:
        if split not in self._scans:
            pairs = [(self._root / image, self._root / mask) for _, image, mask in self._items[split]]
            self._scans[split] = scan(pairs, VALUES, os.cpu_count() or 1, colours=self._colours)
        return self._scans[split]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scans": {}}  # loader workers do not need the presence tables


def locate(root: Path) -> Path:
    """The folder at or below root that holds the complete layout. Raises InputError saying what is missing."""
    advice = (
        f"get the data with `css prepare voc --data-root {root}`, or name a folder that holds {IMAGES}, {MASKS} and "
        "ImageSets/Segmentation with train_aug.txt and val.txt"
    )
    if not root.is_dir():
        raise InputError(f"data root {root} is not a folder: {advice}.")
    candidates = [root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"]
    missing = {folder: _missing_parts(folder) for folder in candidates}
    folder = min(candidates, key=lambda candidate: len(missing[candidate]))
    if missing[folder]:
        raise InputError(f"data root {folder} lacks {', '.join(missing[folder])}: {advice}.")
    return folder


def voc_palette() -> np.ndarray:
    """VOC's colour map, uint8 (256, 3) RGB: bit 3k + c of the id is bit 7 - k of colour channel c (VOC devkit)."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(3):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def colour_table() -> ColourTable:
    """VOC's colours of the classes and of void."""
    palette = voc_palette().tolist()
    return ColourTable({value: palette[value] for value in VALUES}, {**dict(enumerate(CLASS_NAMES)), VOID: "void"})


def _missing_parts(folder: Path) -> list[str]:
    folders = [part for part in (IMAGES, MASKS) if not (folder / part).is_dir()]
    return folders + [path for path in LISTS.values() if not (folder / path).is_file()]
