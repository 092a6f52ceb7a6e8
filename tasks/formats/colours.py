"""Masks in colours with a table of what they mean: CVAT's labelmap.txt, class_dict.csv, or the colours of data.yaml."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.colours import BLACK, ColourTable
from tasks.errors import InputError
from tasks.folder.description import Split, clean
from tasks.folder.layouts import MASKS, splits_of
from tasks.folder.naming import is_background, is_void, read_label_map
from tasks.folder.pairs import find, pairs
from tasks.formats.annotated import Annotated, Item, Shape, size_of
from tasks.source import BACKGROUND, VOID

TABLES = ("labelmap.txt", "class_dict.csv")
Table = dict[str, tuple[int, int, int]]  # RGB by class name, in order


def read_colours(root: Path, images: Path | None = None) -> dict[str, Annotated]:
    """Images and masks in colours, by split: "train" and perhaps "val". Names and colours are those of the table.

    `images` is the folder of the images if they are not in a folder beside the masks, as in most exports of CVAT.

    Raises InputError if there is no table, or if no masks are found; drawing raises it for a colour that is not in it.
    """
    table = read_table(root)
    names = [name for name in table if not is_background(name) and not is_void(name)]
    colours = {name: list(table[name]) for name in names}
    meant, labels = ColourTable(dict(enumerate(table.values())), dict(enumerate(table))), _labels(table, names)
    result = {}
    for key, split in _splits(root, images).items():
        found = _paired(root, split)
        items = [Item(name, image, partial(_draw, image, mask, meant, labels)) for name, image, mask in found]
        result[key] = Annotated(names, root / split.images, items, colours=colours)
    return result


def _splits(root: Path, images: Path | None) -> dict[str, Split]:
    masks = next((name for name in MASKS if (root / name).is_dir()), None)
    if images is None or masks is None:
        try:
            return splits_of(root)
        except InputError:
            if masks is None:
                raise
            raise InputError(
                f"{root} holds masks in {masks} but no images of the same names beside them: name their folder with "
                "--images."
            ) from None
    split = Split(images=str(images.resolve()), masks=masks)
    if not find(root, split).paired:
        raise InputError(f"no image in {images} is named like a mask in {root / masks}: name the folder of the images.")
    return {"train": split}


def read_table(root: Path) -> Table:
    """The first table of colours that lies in a folder; black is the background if it does not say otherwise.

    Raises InputError if it is malformed or if there is none.
    """
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        raise InputError(f"{root} has no table of colours: write a labelmap.txt with lines NAME:R,G,B:: into it.")
    table = read_label_map(path) if path.name == TABLES[0] else _read_csv(path)
    return table if BLACK in table.values() or any(map(is_background, table)) else {"background": BLACK, **table}


def _labels(table: Table, names: list[str]) -> np.ndarray:
    """Table, uint8 (256,), from places in the colour table to labels."""
    labels = np.full(256, VOID, np.uint8)
    for place, name in enumerate(table):
        if not is_void(name):
            labels[place] = BACKGROUND if is_background(name) else names.index(name) + 1
    return labels


def _draw(image: Path, mask: Path, meant: ColourTable, labels: np.ndarray) -> np.ndarray:
    return labels[meant.values(_open_rgb(mask, size_of(image)), str(mask))]


def _open_rgb(path: Path, size: Shape) -> np.ndarray:
    """The colours of a mask, uint8 (H, W, 3); those of a palette too. Raises InputError if it has none."""
    try:
        with Image.open(path) as picture:
            picture.load()
            mode, pixels = picture.mode, np.array(picture.convert("RGBA"))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise InputError(f"mask {path} cannot be read ({error}): replace the file.") from None
    if mode not in ("RGB", "RGBA", "P"):
        raise InputError(f"mask {path} has grey values instead of colours: use `css data init` for such masks.")
    if (pixels[..., 3] < 255).any():
        raise InputError(f"mask {path} is transparent in places: save it as plain RGB.")
    if pixels.shape[:2] != size:
        raise InputError(
            f"mask {path} is {pixels.shape[1]}x{pixels.shape[0]} pixels but its image is {size[1]}x{size[0]}: replace "
            "the one that is wrong."
        )
    return pixels[..., :3]


def _paired(root: Path, split: Split) -> list[tuple[str, Path, Path]]:
    if split.list is not None:
        return pairs(root, split)
    found = find(root, split)
    return [(name, found.images[name], found.masks[name]) for name in found.paired]


def _read_csv(path: Path) -> Table:
    """Lines "name,r,g,b" below a heading."""
    table: Table = {}
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
        for name, red, green, blue in rows[1:]:
            table[clean(name)] = (int(red), int(green), int(blue))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a table of name, r, g, b ({error}): restore it.") from None
    if not table:
        raise InputError(f"{path} names no class: restore it.")
    return table
