"""Finds images and their masks in folders, and divides them into splits."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.folder.description import Split
from tasks.lists import IMAGE_ENDINGS, text_of

MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff")  # without loss, so that class ids survive
VAL_SHARE = 0.2


class Found(NamedTuple):
    """What lies in the folders of a split, by the name that image and mask share."""

    images: dict[str, Path]
    masks: dict[str, Path]

    @property
    def paired(self) -> list[str]:
        """Names of an image and a mask."""
        return sorted(self.images.keys() & self.masks.keys())


def find(root: Path, split: Split) -> Found:
    """Images and masks of a split, its list aside. Raises InputError if a folder is missing or a name ambiguous."""
    masks = _matches(root, split.masks, MASK_ENDINGS)
    taken = set(masks.values())
    same = split.images == split.masks
    endings = [ending for ending in IMAGE_ENDINGS if not (same and ending in MASK_ENDINGS)]
    images = {
        name: [path for path in paths if path not in taken]
        for name, paths in _files(root, split.images, endings).items()
    }
    return Found(_one_each(images), masks)


def pairs(root: Path, split: Split) -> list[tuple[str, Path, Path]]:
    """(name, image, mask) of a split in the order of its list, else by name.

    Raises InputError if the list cannot be read or names something that is not there, and if a split without a list
    has an image without a mask.
    """
    found = find(root, split)
    if split.list is not None:
        names = [_listed(line, found, root / split.list) for line in read_list(root / split.list)]
    else:
        names = sorted(found.images)
    for name in names:
        if name not in found.masks:
            number = sum(other not in found.masks for other in names)
            lossy = " (JPEG does not count: it changes values)" if _files(root, split.masks, (".jpg", ".jpeg")) else ""
            raise InputError(
                f"image {found.images[name]} has no mask named like it in {root / split.masks}{lossy}, nor have "
                f"{number - 1} others: add it, or list the images to use in a text file, the `list` of data.yaml."
            )
    if not names:
        raise InputError(f"{root / split.images} holds no image with a mask in {root / split.masks}: check data.yaml.")
    return [(name, found.images[name], found.masks[name]) for name in names]


def read_list(path: Path) -> list[str]:
    """The lines of a list. Raises InputError if it cannot be read, is empty or repeats itself."""
    lines = [line.strip() for line in text_of(path, "list").splitlines() if line.strip()]
    if not lines:
        raise InputError(f"list {path} is empty: name one image a line.")
    if len(set(lines)) < len(lines):
        twice = next(line for place, line in enumerate(lines) if line in lines[:place])
        raise InputError(f"list {path} names {twice} more than once: keep one line for each image.")
    return lines


def stratified(
    presence: Mapping[str, Iterable[int]], seed: int, share: float = VAL_SHARE
) -> tuple[list[str], list[str]]:
    """Names of the training and of the validation images, both sorted; `presence` are the classes of each image.

    Classes take turns from the rarest on (Sechidis et al., 2011): of the images of a class that no earlier class has
    placed, the share goes to validation, and at least one where a class has two images or more in all. Raises
    InputError if one of the two would be empty.
    """
    order = list(np.random.default_rng(seed).permutation(sorted(presence)))
    holding: dict[int, list[str]] = {}
    for name in order:
        for value in set(presence[name]):
            holding.setdefault(value, []).append(str(name))
    placed: dict[str, bool] = {}  # True: validation
    for _, names in sorted(holding.items(), key=lambda item: (len(item[1]), item[0])):
        open_names = [name for name in names if name not in placed]
        wanted = max(round(share * len(names)), int(len(names) > 1)) - sum(placed.get(name, False) for name in names)
        for place, name in enumerate(open_names):
            placed[name] = place < wanted
    rest = [str(name) for name in order if name not in placed]  # background only
    placed |= {name: place < round(share * len(rest)) for place, name in enumerate(rest)}
    train, val = (sorted(name for name, is_val in placed.items() if is_val is side) for side in (False, True))
    if not train or not val:
        raise InputError(f"{len(placed)} image with a mask cannot be divided into training and validation: add images.")
    return train, val


def folder_of(pattern: str) -> str:
    """The folder below which all files of a pattern lie."""
    return pattern.rpartition("/")[0] if "{}" in pattern else pattern


def _listed(line: str, found: Found, path: Path) -> str:
    """The name that a line of a list means: the name itself, with an ending, or as a path."""
    posix = line.replace("\\", "/")
    for name in (posix, _stem(posix)):
        if name in found.images:
            return name
    stem = _stem(posix.rpartition("/")[2])
    if stem in found.images:
        return stem
    raise InputError(f"list {path} names {line}, but there is no such image: take it off the list or add the image.")


def _stem(name: str) -> str:
    """Without an ending of an image or a mask."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in IMAGE_ENDINGS + MASK_ENDINGS else name


def _matches(root: Path, pattern: str, endings: Iterable[str]) -> dict[str, Path]:
    return _one_each(_files(root, pattern, endings))


def _files(root: Path, pattern: str, endings: Iterable[str]) -> dict[str, list[Path]]:
    """All files that fit a pattern, by what {} stands for. Hidden ones (such as ._x.png of macOS) are left out."""
    base, endings = root / folder_of(pattern), tuple(endings)
    prefix, _, after = pattern.rpartition("/")[2].partition("{}") if "{}" in pattern else ("", "", "")
    if not base.is_dir():
        raise InputError(f"{base} is not a folder: name the folders of images and masks in data.yaml.")
    found: dict[str, list[Path]] = {}
    for place, folders, files in os.walk(base, followlinks=True):
        folders.sort()
        for file in sorted(files):
            path = Path(place) / file
            stem = path.relative_to(base).with_suffix("").as_posix()
            fits = stem.startswith(prefix) and stem.endswith(after) and len(stem) >= len(prefix) + len(after)
            if fits and path.suffix.lower() in endings and not file.startswith("."):
                found.setdefault(stem[len(prefix) : len(stem) - len(after)], []).append(path)
    return found


def _one_each(found: dict[str, list[Path]]) -> dict[str, Path]:
    for paths in found.values():
        if len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1].name} have the same name: rename or remove one of them.")
    return {name: paths[0] for name, paths in found.items() if paths}
