"""What the values of masks mean, from the files that tools leave beside them, or from the values alone."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.colours import ColourTable
from tasks.errors import InputError
from tasks.folder.description import BACKGROUND_NAMES, MOST_CLASSES, clean
from tasks.lists import text_of
from tasks.source import VOID

NAME_FILES = ("classes.txt", "class_names.txt", "labels.txt", "names.txt")
VOID_NAMES = ("void", "ignore", "__ignore__", "_ignore_", "ignored", "unlabeled", "unlabelled")
NUMBERED = re.compile(r"(\d{1,3})[ :,;=\t]+(.+)")  # "0 background", "0: background"
# Cordts et al., CVPR 2016: the ids of the 19 classes that count, in the order of their training ids.
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
CITYSCAPES_VOID = [value for value in range(34) if value not in CITYSCAPES]

Meaning = dict[str, Any]  # names, and where they differ from the defaults background, void, colours


def meaning_of(root: Path, seen: set[int]) -> tuple[Meaning, str]:
    """What the mask values `seen` mean, and a sentence that says where that is known from."""
    for reader in (_cityscapes, _roboflow, _ade20k, _label_map, _name_list):
        meaning = reader(root, seen)
        if meaning is not None:
            return meaning
    return _values_alone(seen)


def _cityscapes(root: Path, seen: set[int]) -> tuple[Meaning, str] | None:
    if not (root / "gtFine").is_dir():
        return None
    meaning = {"names": dict(CITYSCAPES), "background": None, "void": CITYSCAPES_VOID}
    return meaning, "The values are taken for the label ids of Cityscapes."


def _roboflow(root: Path, seen: set[int]) -> tuple[Meaning, str] | None:
    path = next((file for file in (root / "train/_classes.csv", root / "_classes.csv") if file.is_file()), None)
    if path is None:
        return None
    rows = [[cell.strip() for cell in row] for row in csv.reader(text_of(path, "file").splitlines()) if row]
    names = {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdecimal()}
    if len(names) < len(rows) - 1:  # all but the heading
        raise InputError(f"{path} is not a list of pixel values and classes: restore it, or write data.yaml by hand.")
    return {"names": names}, f"The names are those of {path.name}."


def _ade20k(root: Path, seen: set[int]) -> tuple[Meaning, str] | None:
    path = root / "objectInfo150.txt"
    if not path.is_file():
        return None
    return {"names": read_object_info(path)}, f"The names are those of {path.name}, the first of each class."


def read_object_info(path: Path) -> dict[int, str]:
    """Class names by mask value of ADE20K's SceneParsing benchmark (Zhou et al., CVPR 2017): objectInfo150.txt."""
    rows = [row for row in csv.reader(text_of(path, "file").splitlines(), delimiter="\t") if row]
    try:
        full = {int(row[0]): row[-1].strip() for row in rows[1:]}
    except ValueError:
        raise InputError(f"{path} is not ADE20K's table of classes: restore it.") from None
    short = {value: name.split(",")[0] for value, name in full.items()}
    firsts = list(short.values())
    return {value: name if firsts.count(name) == 1 else full[value] for value, name in short.items()}


def _label_map(root: Path, seen: set[int]) -> tuple[Meaning, str] | None:
    """CVAT's labelmap.txt; its order is that of the ids where masks hold ids."""
    path = root / "labelmap.txt"
    if not path.is_file():
        return None
    colours = read_label_map(path)
    plain = {is_background: "background", is_void: "void"}
    kept: dict[str, list[int]] = {}
    for name, colour in colours.items():
        kept.setdefault(next((word for fits, word in plain.items() if fits(name)), name), list(colour))
    meaning = _numbered(list(colours), _first_value(colours))
    return {**meaning, "colours": kept}, f"The names are those of {path.name}, in its order."


def label_colours(root: Path) -> ColourTable | None:
    """By which masks in colours are read before there is a data.yaml: labelmap.txt, if there is one."""
    path = root / "labelmap.txt"
    if not path.is_file():
        return None
    colours = read_label_map(path)
    first = _first_value(colours)
    return ColourTable(dict(enumerate(colours.values(), first)), dict(enumerate(colours, first)))


def _first_value(colours: Mapping[str, object]) -> int:
    return 0 if is_background(next(iter(colours))) else 1


def is_background(name: str) -> bool:
    """Whether a name stands for pixels of no class."""
    return name.lower() in BACKGROUND_NAMES


def is_void(name: str) -> bool:
    """Whether a name stands for pixels to ignore."""
    return name.lower() in VOID_NAMES


def read_label_map(path: Path) -> dict[str, tuple[int, int, int]]:
    """Colours (RGB) by class name, in the order of the file; a line is "name:r,g,b:parts:actions"."""
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(text_of(path, "file").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.rsplit(":", 3)  # a name may hold colons, the rest never does
        colour = _colour(words[1]) if len(words) == 4 else None
        if colour is None:
            raise InputError(f"line {number} of {path} is not NAME:R,G,B:PARTS:ACTIONS: restore it.")
        name = clean(words[0])
        if name in colours:
            raise InputError(f"{path} names {name!r} twice: keep one line for each class.")
        colours[name] = colour
    if not colours:
        raise InputError(f"{path} names no class: restore it.")
    return colours


def _colour(text: str) -> tuple[int, int, int] | None:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])


def _name_list(root: Path, seen: set[int]) -> tuple[Meaning, str] | None:
    path = next((root / file for file in NAME_FILES if (root / file).is_file()), None)
    if path is None:
        return None
    names = [clean(line) for line in text_of(path, "file").splitlines() if line.strip()]
    if not names:
        raise InputError(f"{path} is empty: name one class a line.")
    numbered = [NUMBERED.fullmatch(name) for name in names]
    if all(numbered):
        by_value = {int(match[1]): clean(match[2]) for match in numbered if match}
        return _meaning(by_value), f"The names and their values are those of {path.name}."
    if is_background(names[0]):
        return _numbered(names, 0), f"The names are those of {path.name}; its first line is the background, value 0."
    labels = seen - {VOID}
    if VOID_NAMES[2] == names[0]:  # labelme's labels.txt begins with __ignore__, which has no value
        return _numbered(names[1:], 0), f"The names are those of {path.name} without its first line, from value 0 on."
    if labels and max(labels) < len(names) and 0 in labels and len(labels) == len(names):
        return _numbered(names, 0), (
            f"The names are those of {path.name}, from value 0 on, as the masks hold {len(names)} values from 0 to "
            f"{max(labels)}: there is no background. Set first_id in data.yaml if that is wrong."
        )
    return _numbered(names, 1), f"The names are those of {path.name}, from value 1 on; 0 is the background."


def _numbered(names: list[str], first: int) -> Meaning:
    return _meaning(dict(enumerate(names, first)))


def _meaning(numbered: dict[int, str]) -> Meaning:
    """Names that stand for void become void values."""
    void = [value for value, name in numbered.items() if is_void(name)]
    kept = {value: name for value, name in numbered.items() if value not in void}
    return {"names": kept, "void": [*void, VOID]} if void else {"names": kept}


def _values_alone(seen: set[int]) -> tuple[Meaning, str]:
    if seen == {0, VOID}:
        return {
            "names": {VOID: "object"},
            "void": [],
        }, "The masks hold 0 and 255 alone: 255 is taken for one class, 'object'."
    values = sorted(seen - {0, VOID})
    if not values:
        raise InputError("The masks hold nothing but background (0) and void (255): draw classes first.")
    if len(values) > MOST_CLASSES:
        raise InputError(
            f"The masks hold {len(values)} values, more than {MOST_CLASSES} classes: are they photographs?"
        )
    names = {value: f"class {value}" for value in values}
    remark = f"Nothing names the classes: {len(names)} values are called 'class {values[0]}' and so on; edit them."
    return {"names": names}, remark
