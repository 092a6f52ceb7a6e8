"""COCO json (Lin et al., ECCV 2014): instances with outlines or run lengths, as label maps.

Pixels are those of pycocotools: an outline is rasterised by its `frPyObjects`, parts of one object are united, so holes
of outlines are filled (run lengths keep theirs). Where objects overlap, the later one in the file is on top. Crowds and
objects with a box alone are void, below everything else, unless crowds are asked to be drawn as their class.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tasks.errors import InputError
from tasks.folder.description import BACKGROUND_NAMES, clean
from tasks.formats.annotated import Annotated, Item, Shape, name_below, read_json, size_of
from tasks.source import VOID

CROWDS = ("void", "class")
FEWEST_NUMBERS = 6  # of an outline: three points


def is_coco(path: Path) -> bool:
    """Whether a JSON file has the parts of COCO's."""
    content = read_json(path)
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def read_coco(path: Path, folder: Path, crowd: str = "void") -> Annotated:
    """All images of a json file, which lie in `folder`. Classes are the categories that occur, by their id.

    Raises InputError if the file is not COCO's, or if an image is missing.
    """
    content = read_json(path)
    names = _names(content, path)
    by_image = _by_image(content, path)
    values = {category: value for value, category in enumerate(names, 1)}
    items = []
    for image in content["images"]:
        file = _image_file(image, folder, path)
        annotations = by_image.get(image["id"], [])
        given = (image["height"], image["width"]) if image.get("height") and image.get("width") else None
        draw = partial(_draw, file, given, annotations, values, crowd, path)
        items.append(Item(name_below(folder, file), file, draw))
    if not items:
        raise InputError(f"{path} lists no image: export it again.")
    return Annotated(list(names.values()), folder, items, _remarks(content, by_image, crowd))


def _draw(image: Path, given: Shape | None, annotations: list[dict], values: Mapping[int, int], crowd: str,
          path: Path) -> np.ndarray:  # fmt: skip
    shape = size_of(image, given)
    labels = np.zeros(shape, np.uint8)
    objects = []
    for annotation in annotations:
        outlined = bool(annotation.get("segmentation"))
        if outlined and not (annotation.get("iscrowd") and crowd == "void"):
            objects.append(annotation)
        else:
            labels[_pixels(annotation, shape, path) if outlined else _box(annotation, shape)] = VOID
    for annotation in objects:
        labels[_pixels(annotation, shape, path)] = values[annotation["category_id"]]
    return labels


def _pixels(annotation: dict, shape: Shape, path: Path) -> np.ndarray:
    """bool (H, W): the pixels of one object, by pycocotools."""
    given = annotation["segmentation"]
    try:
        if isinstance(given, list):
            outlines = [[float(number) for number in part] for part in given if len(part) >= FEWEST_NUMBERS]
            if not outlines:
                return np.zeros(shape, bool)
            runs = coco_mask.merge(coco_mask.frPyObjects(outlines, *shape))
        else:
            runs = _run_lengths(given, shape)
        return coco_mask.decode(runs).astype(bool)
    except (ValueError, TypeError, KeyError) as error:
        where = f"annotation {annotation.get('id')} of {path}"
        raise InputError(f"{where} has no usable outline ({error}): export it again.") from None


def _run_lengths(given: dict, shape: Shape) -> dict:
    if tuple(given["size"]) != shape:
        raise ValueError(
            f"run lengths of {given['size'][0]} rows and {given['size'][1]} columns, the image has {shape}"
        )
    if not isinstance(given["counts"], list):
        return given
    if sum(given["counts"]) != shape[0] * shape[1] or min(given["counts"]) < 0:
        raise ValueError("run lengths that do not add up to the image")
    return coco_mask.frPyObjects(given, *shape)


def _box(annotation: dict, shape: Shape) -> tuple[slice, slice]:
    """The pixels that a box touches; none if there is no box either."""
    left, top, width, height = annotation.get("bbox") or (0, 0, 0, 0)
    rows = slice(max(0, int(np.floor(top))), max(0, min(shape[0], int(np.ceil(top + height)))))
    return rows, slice(max(0, int(np.floor(left))), max(0, min(shape[1], int(np.ceil(left + width)))))


def _names(content: Any, path: Path) -> dict[int, str]:
    """Names of the categories that occur, by their id."""
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise InputError(f"{path} is not COCO json, which has images, annotations and categories: export it again.")
    try:
        used = {annotation["category_id"] for annotation in content["annotations"]}
        names = {c["id"]: clean(c["name"]) for c in content["categories"] if c["id"] in used}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not COCO json, a category or an annotation lacks {error}: export it again."
        ) from None
    unknown = used - names.keys()
    if unknown:
        raise InputError(f"{path} has annotations of category {min(unknown)}, which it does not name: export it again.")
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise InputError(f"{path} has two categories named {twice[0]!r}: rename one of them.")
    background = [name for name in names.values() if name.lower() in BACKGROUND_NAMES]
    if background:
        raise InputError(f"{path} outlines a category {background[0]!r}: delete it, background is what has no outline.")
    return dict(sorted(names.items()))


def _by_image(content: dict, path: Path) -> dict[int, list[dict]]:
    known = {image.get("id") for image in content["images"]}
    by_image: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        if annotation.get("image_id") not in known:
            raise InputError(f"{path}: annotation {annotation.get('id')} belongs to no image: export it again.")
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    return by_image


def _image_file(image: dict, folder: Path, path: Path) -> Path:
    """The file of an image: as named, else the same name right in the folder."""
    name = str(image.get("file_name", "")).replace("\\", "/")
    for file in (folder / name, folder / name.rpartition("/")[2]):
        if name and file.is_file():
            return file
    raise InputError(f"{path} names the image {name!r}, which is not in {folder}: name its folder with --images.")


def _remarks(content: dict, by_image: dict[int, list[dict]], crowd: str) -> list[str]:
    kinds = Counter(
        "box" if not annotation.get("segmentation") else "crowd" if annotation.get("iscrowd") else "object"
        for annotation in content["annotations"]
    )
    empty = len(content["images"]) - len(by_image)
    remarks = []
    if kinds["box"]:
        remarks.append(f"{kinds['box']} objects have a box and no outline: their boxes are void.")
    if kinds["crowd"] and crowd == "void":
        remarks.append(
            f"{kinds['crowd']} objects are marked as crowds and are void. supervision (objects of two parts or with a "
            "hole) and datumaro (all run lengths) mark whole objects so: then use --crowd class."
        )
    if empty:
        remarks.append(f"{empty} images have no annotation: they are background throughout.")
    return remarks
