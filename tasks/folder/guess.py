"""Looks at a folder of images and masks and writes the data.yaml that it seems to need."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tasks.colours import ColourTable
from tasks.errors import InputError
from tasks.folder.description import FILE, Description, Split, as_yaml, describe
from tasks.folder.layouts import splits_of
from tasks.folder.naming import label_colours, meaning_of
from tasks.folder.pairs import find, pairs, stratified
from tasks.folder.writing import write_text
from tasks.reading import open_mask

SEED = 0


class Guess(NamedTuple):
    """What a folder seems to need."""

    description: Description
    remarks: list[str]  # sentences: what was guessed, and from what
    lists: dict[str, list[str]]  # by the name of the file to write


def init(root: Path) -> Guess:
    """Writes data.yaml, and train.txt and val.txt where the folder has no splits or has images without masks.

    Raises InputError if there is a data.yaml, if no images with masks are found, or if the masks hold colours.
    """
    if (root / FILE).exists():
        raise InputError(f"{root / FILE} is there already: edit it, or delete it to have it guessed anew.")
    guess = look(root)
    for file in guess.lists:
        if (root / file).exists():
            raise InputError(f"{root / file} would be overwritten: rename it, or write {FILE} by hand.")
    for file, names in guess.lists.items():
        write_text(root / file, "".join(f"{name}\n" for name in names))
    write_text(root / FILE, as_yaml(guess.description))
    return guess


def look(root: Path) -> Guess:
    """What `init` would write."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: name one with images and masks.")
    splits = splits_of(root)
    lists, remarks = _paired_only(root, splits)
    colours = label_colours(root)
    values = {key: _values(root, split, lists.get(f"{key}.txt"), colours) for key, split in splits.items()}
    seen = set().union(*(found for split in values.values() for found in split.values()))
    meaning, remark = meaning_of(root, seen)
    if "val" not in splits:
        classes = set(meaning["names"])
        train, val = stratified({name: found & classes for name, found in values["train"].items()}, SEED)
        lists = {"train.txt": train, "val.txt": val}
        splits = {key: splits["train"].model_copy(update={"list": f"{key}.txt"}) for key in ("train", "val")}
        remarks.append(f"There are no splits: {len(train)} images train and {len(val)} validate (seed {SEED}).")
    given = {key: split.model_dump(exclude_none=True) for key, split in splits.items()}
    return Guess(describe({**meaning, **given}, root / FILE), [*remarks, remark], lists)


def _paired_only(root: Path, splits: dict[str, Split]) -> tuple[dict[str, list[str]], list[str]]:
    """Lists of the images with a mask, for splits with others; changes `splits` to use them."""
    lists, remarks = {}, []
    for key, split in splits.items():
        found = find(root, split)
        alone = len(found.images) - len(found.paired)
        if alone and split.list is None:
            lists[f"{key}.txt"] = found.paired
            splits[key] = split.model_copy(update={"list": f"{key}.txt"})
            remarks.append(f"{alone} images of {split.images} have no mask and are left out.")
    return lists, remarks


def _values(root: Path, split: Split, names: list[str] | None, colours: ColourTable | None) -> dict[str, set[int]]:
    """The values in each mask of a split, by image; `names` instead of a list that is not written yet."""
    if names is None:
        masks = {name: mask for name, _, mask in pairs(root, split)}
    else:
        masks = {name: mask for name, mask in find(root, split).masks.items() if name in set(names)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(partial(_values_in, colours=colours), masks.values())
        found = tqdm(read, f"reading {split.masks}", len(masks), unit="mask", disable=None)
        return dict(zip(masks, found, strict=True))


def _values_in(path: Path, colours: ColourTable | None) -> set[int]:
    return set(np.flatnonzero(open_mask(path, colours).histogram()).tolist())
