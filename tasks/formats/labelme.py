"""labelme json: one file an image, drawn with the same calls and sizes as labelme's `shapes_to_label` (6.3.1).

Pillow draws each shape with its outline, so a polygon covers its border pixels: (2,2) (6,2) (6,6) (2,6) is 5x5 pixels,
not 4x4 as in COCO. Later shapes are on top. Lines are 10 pixels wide, points have a radius of 5. "__ignore__" is void,
"_background_" is background and so makes holes.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tasks.errors import InputError
from tasks.folder.description import clean
from tasks.folder.naming import is_background
from tasks.formats.annotated import Annotated, Item, Shape, common_folder, name_below, read_json, size_of
from tasks.lists import IMAGE_ENDINGS
from tasks.source import BACKGROUND, VOID

LINE_WIDTH, POINT_RADIUS = 10, 5
IGNORE = "__ignore__"
MANY = 10**9
POINTS = {  # fewest and most of a shape
    "circle": (2, 2), "rectangle": (2, 2), "point": (1, 1), "oriented_rectangle": (4, 4), "mask": (2, 2),
    "polygon": (3, MANY), "line": (2, MANY), "linestrip": (2, MANY),
}  # fmt: skip


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is labelme's."""
    content = read_json(path)
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_labelme(folder: Path, images: Path | None = None) -> Annotated:
    """All json files of labelme in a folder and below. Classes are the labels in alphabetical order.

    Images are where the files say, beside them, or in the folder `images`.

    Raises InputError if an image is missing or a shape cannot be drawn.
    """
    files = {path: read_json(path) for path in sorted(folder.rglob("*.json"))}
    files = {path: content for path, content in files.items() if isinstance(content, dict) and "shapes" in content}
    if not files:
        raise InputError(f"{folder} holds no json file of labelme: name the folder that does.")
    labels = {_label(shape, path) for path, content in files.items() for shape in content["shapes"]}
    names = sorted(label for label in labels if label != IGNORE and not is_background(label))
    values = dict.fromkeys(labels, BACKGROUND) | {name: value for value, name in enumerate(names, 1)}
    values[IGNORE] = VOID
    image_of = {path: _image_of(path, content, images) for path, content in files.items()}
    root = common_folder(image_of.values())
    items = [
        Item(name_below(root, image.resolve()), image, partial(_draw, image, files[path]["shapes"], values, path))
        for path, image in image_of.items()
    ]
    return Annotated(names, root, items)


def _draw(image: Path, shapes: list[dict], values: Mapping[str, int], path: Path) -> np.ndarray:
    size = size_of(image)
    labels = np.zeros(size, np.uint8)
    for shape in shapes:
        labels[_pixels(shape, size, path)] = values[_label(shape, path)]
    return labels


def _pixels(shape: dict, size: Shape, path: Path) -> np.ndarray:
    """bool (H, W): the pixels of one shape."""
    kind = shape.get("shape_type") or "polygon"
    points = _points(shape, kind, path)
    if kind == "mask":
        return _mask_pixels(shape, points, size, path)
    canvas = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(canvas)
    if kind in ("circle", "point"):
        (x, y), radius = points[0], POINT_RADIUS if kind == "point" else math.dist(*points)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    elif kind == "rectangle":
        (x0, y0), (x1, y1) = points
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=1, outline=1)
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=1, width=LINE_WIDTH)
    else:
        draw.polygon(points, fill=1, outline=1)
    return np.array(canvas, bool)


def _points(shape: dict, kind: str, path: Path) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError):
        points = []
    if kind not in POINTS:
        raise InputError(f"{path} has a shape of the type {kind!r}, which has no area: delete it in labelme.")
    fewest, most = POINTS[kind]
    if not fewest <= len(points) <= most:
        raise InputError(f"{path} has a {kind} of {len(points)} points: delete or redraw it in labelme.")
    return points


def _mask_pixels(shape: dict, points: list[tuple[float, float]], size: Shape, path: Path) -> np.ndarray:
    """A shape that is a small picture of its own, pasted with its corner at the first point."""
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    pixels = np.zeros(size, bool)
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            pixels[top : bottom + 1, left : right + 1] = np.array(picture).astype(bool)
    except (OSError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"{path} has a mask that cannot be drawn ({error}): redraw it in labelme.") from None
    return pixels


def _label(shape: Any, path: Path) -> str:
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise InputError(f"{path} has a shape without a label: name it in labelme.")
    return clean(label)


def _image_of(path: Path, content: dict, images: Path | None) -> Path:
    """The image that the file names, else one of that name in the folder of images or beside the file."""
    named = str(content.get("imagePath") or path.name).replace("\\", "/")
    name = named.rpartition("/")[2]
    folders = [path.parent] if images is None else [images, path.parent]
    same = [folder / f"{path.stem}{ending}" for folder in folders for ending in IMAGE_ENDINGS]
    for file in (path.parent / named, *(folder / name for folder in folders), *same):
        if file.is_file() and file != path:
            return file
    raise InputError(
        f"{path} belongs to the image {named!r}, which is not there: put it beside the json file, or name its folder "
        "with --images."
    )
