"""What every reader of a format gives: images, each with a label map that is drawn when it is asked for."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.reading import open_image

Shape = tuple[int, int]  # height, width


class Item(NamedTuple):
    """One image. `draw` gives its label map, uint8 (H, W): 0 background, 1.. the classes in order, 255 void."""

    name: str  # path below the folder of the images, without ending
    image: Path
    draw: Callable[[], np.ndarray]


@dataclass
class Annotated:
    """Images of one split. `names` are those of the values 1, 2, ...; `remarks` are sentences for the user."""

    names: list[str]
    folder: Path  # of the images
    items: list[Item]
    remarks: list[str] = field(default_factory=list)
    colours: dict[str, list[int]] = field(default_factory=dict)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): export it again.") from None


def size_of(image: Path, given: Shape | None = None) -> Shape:
    """Height and width of an image as training sees it. Raises InputError if the annotation says otherwise."""
    width, height = open_image(image).size
    if given not in (None, (height, width)):
        turned = " (turned by a quarter: is it the camera's orientation flag?)" if given == (width, height) else ""
        raise InputError(
            f"image {image} is {width}x{height} pixels, but was {given[1]}x{given[0]} when it was annotated{turned}: "
            "use the image that was annotated."
        )
    return height, width


def name_below(folder: Path, image: Path) -> str:
    """The name of an `Item`: its path below a folder, without ending."""
    return image.relative_to(folder).with_suffix("").as_posix()


def common_folder(images: Iterable[Path]) -> Path:
    """The folder deepest down that holds all images."""
    return Path(os.path.commonpath([image.resolve().parent for image in images]))
