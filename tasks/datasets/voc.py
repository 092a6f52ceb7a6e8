"""PASCAL VOC 2012 with the augmented segmentation masks, in the official folder layout."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import InputError
from tasks.reading import open_image, open_mask, scan
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
IMAGES, MASKS = "JPEGImages", "SegmentationClassAug"


class Voc:
    """VOC 2012 as a `tasks.source.Source`: train is train_aug.txt, test is val.txt.

    root holds JPEGImages, SegmentationClassAug and ImageSets/Segmentation, or contains VOCdevkit/VOC2012 or VOC2012
    that does. A list holds one image a line: an id, or "image mask" as paths relative to that folder (PLOP's format).

    Raises InputError if folders or lists are missing or malformed; images and masks are only verified by the scan that
    the first presence() or fingerprint() makes.
    """

    name = "voc"

    def __init__(self, root: Path) -> None:
        self.class_names = list(CLASS_NAMES)
        self._root = locate(Path(root))
        self._items = {split: _read_list(self._root / path) for split, path in LISTS.items()}
        self._scans: dict[str, tuple[np.ndarray, str]] = {}

    def presence(self, split: str) -> np.ndarray:
        """bool (images, 256): which values occur in the mask of each image of the split."""
        return self._scan(split)[0]

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and mask uint8 (H, W) of raw class ids. InputError if a file cannot be decoded."""
        image, mask = self._items[split][index]
        return np.array(open_image(self._path(image))), np.array(open_mask(self._path(mask)))

    def image_id(self, split: str, index: int) -> str:
        """Name of the image file without its ending, such as 2007_000032."""
        return _stem(self._items[split][index][0])

    def fingerprint(self) -> str:
        """Hex digest of the masks' content and of the images' names and sizes in both splits."""
        return hashlib.sha256("".join(self._scan(split)[1] for split in LISTS).encode()).hexdigest()

    def _scan(self, split: str) -> tuple[np.ndarray, str]:
        if split not in self._scans:
            pairs = [(self._path(image), self._path(mask)) for image, mask in self._items[split]]
            self._scans[split] = scan(pairs, [*range(len(CLASS_NAMES)), VOID], os.cpu_count() or 1)
        return self._scans[split]

    def _path(self, relative: str) -> Path:
        return self._root / relative

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


def _missing_parts(folder: Path) -> list[str]:
    folders = [part for part in (IMAGES, MASKS) if not (folder / part).is_dir()]
    return folders + [path for path in LISTS.values() if not (folder / path).is_file()]


def _read_list(path: Path) -> list[tuple[str, str]]:
    """(image, mask) paths relative to the data root. Strings, because they travel to every loader worker."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"image list {path} cannot be read ({error}): restore it as a text file.") from error
    items = [_parse_line(line.split(), number, path) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise InputError(f"image list {path} is empty: restore it, one image id a line.")
    names = [_stem(image) for image, _ in items]
    if len(set(names)) < len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise InputError(f"image list {path} names {twice} more than once: keep one line for each image.")
    return items


def _parse_line(words: list[str], number: int, path: Path) -> tuple[str, str]:
    if len(words) == 1:
        return f"{IMAGES}/{words[0]}.jpg", f"{MASKS}/{words[0]}.png"
    if len(words) == 2:
        return words[0].lstrip("/"), words[1].lstrip("/")
    raise InputError(f"line {number} of image list {path} is neither an image id nor the paths of image and mask.")


def _stem(path: str) -> str:
    return Path(path).stem
