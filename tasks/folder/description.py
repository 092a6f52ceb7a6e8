"""data.yaml: which classes a folder of images and masks has, and where the images of each split lie."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.colours import BLACK, ColourTable
from tasks.errors import InputError
from tasks.palette import distinct_palette
from tasks.source import BACKGROUND, VOID

FILE = "data.yaml"
MOST_CLASSES = 254
BACKGROUND_NAMES = ("background", "_background_", "__background__")

Value = int  # of a pixel of a mask, 0 to 255
Colour = tuple[int, int, int]


class Split(BaseModel):
    """Where the images of a split and their masks lie.

    Both are folders, or patterns with {} for the name that image and mask share: "gtFine/train/{}_gtFine_labelIds".
    Files are found in folders below too, whatever their ending is. `list` is a text file with one such name a line.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    images: str
    masks: str
    list: str | None = None


class Description(BaseModel):
    """The content of data.yaml. Classes are told apart by mask values; raw class ids are 1, 2, ... in that order.

    `background` is the value of pixels of no class, or null if every pixel has a class; by default 0 if no class has
    that value. `void` are the values of pixels that are ignored. `colours` (RGB) are those of predicted masks,
    and of masks that hold colours instead of values.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    names: dict[Value, str]
    background: Value | None = None
    void: list[Value] = [VOID]
    colours: dict[str, list[int]] = Field(default_factory=dict)
    train: Split
    val: Split

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        """A list of names becomes a mapping, a single void value a list, and the background's name its value."""
        if not isinstance(given, Mapping):
            raise ValueError("is no mapping of names to values")
        given = dict(given)
        given["names"] = _by_value(given.get("names"), given.pop("first_id", None))
        given["void"] = _void(given)
        given.setdefault("background", _background(given["names"]))
        named = given["names"].get(given["background"])
        if isinstance(named, str) and named.lower() in BACKGROUND_NAMES:
            del given["names"][given["background"]]
        return given

    @model_validator(mode="after")
    def _fits(self) -> "Description":
        self.names = {value: clean(name) for value, name in sorted(self.names.items())}
        _require_names(list(self.names.values()))
        values = [*self.names, *self.void, *([] if self.background is None else [self.background])]
        _require_values(values)
        for name, colour in self.colours.items():
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise ValueError(f"colour {colour} of {name} is not three numbers from 0 to 255")
        unknown = {clean(name) for name in self.colours} - {"background", "void", *self.names.values()}
        if unknown:
            raise ValueError(f"colours name {', '.join(sorted(unknown))}, which is no class")
        return self

    @property
    def class_names(self) -> list[str]:
        """By raw class id, the background first."""
        return ["background", *self.names.values()]

    @property
    def values(self) -> list[Value]:
        """All mask values that mean something."""
        return [*self.names, *self.void, *([] if self.background is None else [self.background])]

    @property
    def ids(self) -> np.ndarray:
        """Table, uint8 (256,), from mask values to raw class ids; values that mean nothing become void."""
        table = np.full(256, VOID, np.uint8)
        if self.background is not None:
            table[self.background] = BACKGROUND
        table[list(self.names)] = range(1, len(self.names) + 1)
        return table

    @property
    def colour_table(self) -> ColourTable | None:
        """By which masks in colours are read, and which palettes must not contradict; None if no colours are given."""
        if not self.colours:
            return None
        named = {clean(name): tuple(colour) for name, colour in self.colours.items()}
        meant = {value: named[name] for value, name in self._meanings.items() if name in named}
        if self.background is not None and BLACK not in meant.values():
            meant.setdefault(self.background, BLACK)
        return ColourTable(meant, self._meanings)

    @property
    def _meanings(self) -> dict[Value, str]:
        """What each mask value stands for."""
        background = {} if self.background is None else {self.background: "background"}
        return {**background, **self.names, **dict.fromkeys(self.void[:1], "void")}

    @property
    def palette(self) -> np.ndarray:
        """Colours by raw class id, uint8 (256, 3): those of data.yaml, else the program's own."""
        palette = distinct_palette().copy()
        for name, colour in self.colours.items():
            palette[VOID if name == "void" else self.class_names.index(clean(name))] = colour
        return palette


def read(folder: Path) -> Description:
    """The description of a folder. Raises InputError if data.yaml is missing or does not make sense."""
    path = folder / FILE
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one that holds {FILE}, images and masks.")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {FILE}: write one with `css data init {folder}`.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} cannot be read ({reason}): restore it, or write it anew with `css data init`."
        ) from None
    if isinstance(given, dict) and "nc" in given:
        raise InputError(
            f"{path} is of YOLO, whose labels are outlines in text files: convert them to COCO json and that with "
            "`css data convert`."
        )
    return describe(given, path)


def describe(given: Any, path: Path) -> Description:
    """The description with this content, named like the folder of `path` unless it has a name.

    Raises InputError, naming `path`, if it does not make sense.
    """
    if isinstance(given, dict):
        given = {"name": path.parent.resolve().name, **given}
    try:
        return Description.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}; see docs/own-data.md for what it may hold.") from None


def as_yaml(description: Description) -> str:
    """The text of data.yaml, in an order that reads well; what is at its default and obvious is left out."""
    content = description.model_dump(exclude_none=False)
    content["colours"] = {name: list(colour) for name, colour in content["colours"].items()} or None
    for split in ("train", "val"):
        content[split] = {key: value for key, value in content[split].items() if value is not None}
    order = ("name", "names", "background", "void", "colours", "train", "val")
    kept = {key: content[key] for key in order if key != "colours" or content[key]}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def clean(name: str) -> str:
    """Without blanks around it, and umlauts as one letter each (macOS writes two)."""
    return unicodedata.normalize("NFC", name).strip()


def _by_value(names: Any, first_id: Any) -> dict:
    if isinstance(names, Mapping):
        if first_id is not None:
            raise ValueError("first_id goes with a list of names, and names has values already")
        return dict(names)
    if not isinstance(names, list):
        raise ValueError("names must be a list of class names, or a mapping from mask values to class names")
    first = 1 if first_id is None else first_id
    if not isinstance(first, int) or isinstance(first, bool):
        raise ValueError(f"first_id {first!r} is no whole number")
    return dict(enumerate(names, first))


def _void(given: dict) -> Any:
    void = given.get("void", [] if VOID in given["names"] else [VOID])
    return [] if void is None else [void] if isinstance(void, int) else void


def _background(names: dict) -> Value | None:
    named = [value for value, name in names.items() if isinstance(name, str) and name.lower() in BACKGROUND_NAMES]
    if named:
        return named[0]
    return None if BACKGROUND in names else BACKGROUND


def _require_names(names: list[str]) -> None:
    if not names:
        raise ValueError("names holds no class beside the background")
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{len(names)} classes are more than {MOST_CLASSES}, which is what 8-bit labels can hold")
    for name in names:
        if not name or name.isdecimal() or name.lower() in BACKGROUND_NAMES:
            raise ValueError(f"{name!r} cannot be the name of a class, as it is empty, a number or the background")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two classes are named {twice!r}")


def _require_values(values: list[Value]) -> None:
    for value in values:
        if not 0 <= value <= 255:
            raise ValueError(f"mask value {value} is not in 0 to 255")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"mask value {twice} means two things (a class, the background or void)")


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_type" and where.startswith("names"):
        message = f"{first['input']!r} is no text: put class names in quotes"
    return f"{where}: {message}" if where else message
