"""Looks at every image and mask of a data set in a folder and says what is in them and what does not fit."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tasks.colours import ColourTable
from tasks.errors import InputError
from tasks.folder.description import FILE, Description, read
from tasks.folder.pairs import find, pairs
from tasks.reading import open_image, open_mask
from tasks.source import VOID

SPLITS = ("train", "val")
MOST_NAMED = 3  # files in a sentence
MUCH_VOID = 0.3


@dataclass
class Pair:
    """What was seen of one image and its mask."""

    name: str
    image: Path
    mask: Path
    size: tuple[int, int] = (0, 0)  # width, height
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels by mask value
    colours: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # of the palette, by mask value
    digest: bytes = b""  # of the image's bytes
    problem: str | None = None


@dataclass
class Check:
    """Everything found: `problems` stop a run, `remarks` do not."""

    description: Description
    splits: dict[str, list[Pair]]
    problems: list[str]
    remarks: list[str]

    @property
    def pairs(self) -> list[Pair]:
        """Those of both splits."""
        return [pair for split in self.splits.values() for pair in split]

    def pixels(self, split: str) -> np.ndarray:
        """int64 (256,): pixels by raw class id, of whole pairs without a problem."""
        by_value = sum((pair.counts for pair in self.splits[split]), np.zeros(256, np.int64))
        return np.bincount(self.description.ids, by_value, 256).astype(np.int64)

    def images(self, split: str) -> np.ndarray:
        """int64 (256,): images that hold each raw class id."""
        held = np.zeros(256, np.int64)
        for pair in self.splits[split]:
            held[np.unique(self.description.ids[np.flatnonzero(pair.counts)])] += 1
        return held


def check(root: Path) -> Check:
    """Reads every file of both splits. Raises InputError only if data.yaml, a list or a folder is unusable."""
    description = read(root)
    splits, problems, remarks = {}, [], []
    for key in SPLITS:
        split = getattr(description, key)
        found = pairs(root, split)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            look = partial(_look, colours=description.colour_table)
            seen = tqdm(pool.map(look, found), f"checking {key}", len(found), unit="image", disable=None)
            splits[key] = list(seen)
        problems += [pair.problem for pair in splits[key] if pair.problem]
        remarks += _left_over(root, key, description)
    remarks = list(dict.fromkeys(remarks))  # splits may share their folders
    result = Check(description, splits, problems, remarks)
    for finding in (_nameless, _shared_files):
        problems += finding(result)
    for finding in (_shared_content, _palettes, _absent_classes, _void, _sizes):
        remarks += finding(result)
    return result


def report(result: Check) -> str:
    """A table of the classes, then one line for each finding."""
    columns = [(result.images(split), result.pixels(split)) for split in SPLITS]
    width = max(len(name) for name in [*result.description.class_names, "background"])
    heads = "".join(f"{split + ' images':>15}{'% pixels':>10}" for split in SPLITS)
    lines = [f"{result.description.name}: " + ", ".join(f"{len(result.splits[s])} {s} images" for s in SPLITS)]
    lines += [f"{'value':>6}  {'class':<{width}}{heads}"]
    for value, name, class_id in _rows(result.description):
        cells = "".join(f"{i[class_id]:>15}{100 * p[class_id] / max(1, p.sum()):>10.2f}" for i, p in columns)
        lines.append(f"{value:>6}  {name:<{width}}{cells}")
    lines += [f"problem: {text}" for text in result.problems]
    lines += [f"note: {text}" for text in result.remarks]
    return "\n".join(lines)


def _rows(description: Description) -> list[tuple[int | str, str, int]]:
    """Mask value, name and raw class id of everything a mask can hold."""
    classes = [(value, name, place) for place, (value, name) in enumerate(description.names.items(), 1)]
    background = [] if description.background is None else [(description.background, "background", 0)]
    return [*background, *classes, ("", "void", VOID)]


def _look(item: tuple[str, Path, Path], colours: ColourTable | None) -> Pair:
    pair = Pair(*item)
    try:
        image, mask = open_image(pair.image), open_mask(pair.mask, colours)
        pair.digest = hashlib.sha256(pair.image.read_bytes()).digest()
    except InputError as error:
        pair.problem = str(error)
        return pair
    pair.size = image.size
    if image.size != mask.size:
        pair.problem = (
            f"mask {pair.mask} is {mask.width}x{mask.height} pixels but its image {pair.image} is "
            f"{image.width}x{image.height}: replace the one that is wrong."
        )
        return pair
    pair.counts = np.array(mask.histogram(), np.int64)
    palette = mask.getpalette("RGB") if mask.mode == "P" else None
    if palette:
        stored = list(zip(palette[::3], palette[1::3], palette[2::3], strict=False))
        pair.colours = {value: stored[value] for value in np.flatnonzero(pair.counts[: len(stored)]).tolist()}
    return pair


def _left_over(root: Path, key: str, description: Description) -> list[str]:
    """Files that the split could use and does not."""
    split = getattr(description, key)
    found = find(root, split)
    lonely = {
        "image": sorted(found.images.keys() - found.masks.keys()),
        "mask": sorted(found.masks.keys() - found.images.keys()),
    }
    folders = {"image": split.images, "mask": split.masks}
    return [
        f"{len(names)} {kind}s in {folders[kind]} have no {other} of the same name: {_some(names)}."
        for (kind, names), other in zip(lonely.items(), ("mask", "image"), strict=True) if names
    ]  # fmt: skip


def _nameless(result: Check) -> list[str]:
    """Mask values without a meaning, each with the masks that hold it."""
    known = set(result.description.values)
    holders: dict[int, list[str]] = {}
    for pair in result.pairs:
        for value in set(np.flatnonzero(pair.counts).tolist()) - known:
            holders.setdefault(value, []).append(str(pair.mask))
    return [
        f"value {value} has no name in {FILE} but occurs in {len(masks)} masks ({_some(masks)}): "
        "name it or add it to void."
        for value, masks in sorted(holders.items())
    ]


def _shared_files(result: Check) -> list[str]:
    train, val = ({os.path.realpath(pair.image) for pair in result.splits[split]} for split in SPLITS)
    shared = sorted(train & val)
    return [f"{len(shared)} images are in both splits: {_some(shared)}; take them off one list."] if shared else []


def _shared_content(result: Check) -> list[str]:
    """Copies of a training image under another name."""
    train = {pair.digest: pair for pair in result.splits["train"] if pair.digest}
    copies = [
        f"{pair.name} = {train[pair.digest].name}"
        for pair in result.splits["val"]
        if pair.digest in train and os.path.realpath(pair.image) != os.path.realpath(train[pair.digest].image)
    ]
    return [f"{len(copies)} val images are copies of training images: {_some(copies)}."] if copies else []


def _palettes(result: Check) -> list[str]:
    """Palettes that disagree with each other: then colours were meant, not values."""
    by_value: dict[int, Counter] = {}
    for pair in result.pairs:
        for value, colour in pair.colours.items():
            by_value.setdefault(value, Counter())[colour] += 1
    torn = [value for value, colours in by_value.items() if len(colours) > 1]
    if not torn:
        return []
    return [
        f"value {torn[0]} has {len(by_value[torn[0]])} colours in the palettes of the masks: each file seems to number "
        "its colours anew; read them by colour with `css data convert`."
    ]


def _absent_classes(result: Check) -> list[str]:
    texts = []
    for split in SPLITS:
        held = result.images(split)
        absent = [
            name for class_id, name in enumerate(result.description.class_names) if class_id and not held[class_id]
        ]
        if absent:
            texts.append(f"{len(absent)} classes are in no {split} image: {_some(absent)}.")
    return texts


def _void(result: Check) -> list[str]:
    shares = {split: result.pixels(split)[VOID] / max(1, result.pixels(split).sum()) for split in SPLITS}
    return [
        f"{100 * share:.0f} % of the {split} pixels are void, which nothing is learnt from."
        for split, share in shares.items()
        if share > MUCH_VOID
    ]


def _sizes(result: Check) -> list[str]:
    sizes = Counter(pair.size for pair in result.pairs if pair.size[0])
    if not sizes:
        return []
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    small, large = (f"{width}x{height}" for width, height in (ordered[0], ordered[-1]))
    if len(sizes) == 1:
        return [f"all images are {small} pixels."]
    return [f"images have {len(sizes)} sizes, from {small} to {large} pixels."]


def _some(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
