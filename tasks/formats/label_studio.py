"""Label Studio: brush labels as PNG files, with the tasks as JSON beside them.

The PNGs have one label each and say nothing of the image or of what was drawn first; the JSON export (the full one)
does. A pixel has a label where the PNG is above 128, as label-studio-sdk (2.1.2) reads brushes; where labels overlap,
the region that comes later in the JSON is on top.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from tasks.errors import InputError
from tasks.folder.description import clean
from tasks.folder.naming import is_background, is_void
from tasks.formats.annotated import Annotated, Item, common_folder, name_below, read_json, size_of
from tasks.lists import IMAGE_ENDINGS
from tasks.source import BACKGROUND, VOID

THRESHOLD = 128
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # put before the name of an uploaded file
BRUSHES = "task-*-annotation-*-by-*.png"

Layer = tuple[str, Path]  # label, PNG


def is_label_studio(folder: Path) -> bool:
    """Whether brush PNGs lie in a folder."""
    return next(folder.glob(BRUSHES), None) is not None


def read_label_studio(folder: Path, images: Path) -> Annotated:
    """Brush PNGs and the JSON of their tasks in `folder`, images in `images`. Classes are the labels, alphabetically.

    Raises InputError if the JSON, an image or a PNG is missing.
    """
    tasks = _tasks(folder)
    files = {file.name: file for file in images.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS}
    layers: dict[Path, list[Layer]] = {}
    for task in tasks:
        image = _image_of(task, files, images)
        if image in layers:
            raise InputError(f"{folder}: two tasks have the image {image.name}: export one of them only.")
        layers[image] = list(_layers(task, folder))
    labels = {label for drawn in layers.values() for label, _ in drawn}
    names = sorted(label for label in labels if not is_background(label) and not is_void(label))
    values = {label: VOID if is_void(label) else BACKGROUND for label in labels}
    values |= {name: value for value, name in enumerate(names, 1)}
    root = common_folder(layers)
    items = [Item(name_below(root, i.resolve()), i, partial(_draw, i, drawn, values)) for i, drawn in layers.items()]
    return Annotated(names, root, items, _remarks(tasks))


def _draw(image: Path, layers: list[Layer], values: Mapping[str, int]) -> np.ndarray:
    size = size_of(image)
    labels = np.zeros(size, np.uint8)
    for label, file in layers:
        with Image.open(file) as picture:
            drawn = np.array(picture.convert("L")) > THRESHOLD
        if drawn.shape != size:
            raise InputError(
                f"{file} is {drawn.shape[1]}x{drawn.shape[0]} pixels but its image is {size[1]}x{size[0]}."
            )
        labels[drawn] = values[label]
    return labels


def _tasks(folder: Path) -> list[dict]:
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if isinstance(content, list) and all(isinstance(t, dict) and "annotations" in t for t in content):
            annotated = [task for task in content if task["annotations"]]
            if annotated:
                return annotated
    raise InputError(f"{folder} has brush PNGs but no JSON of their tasks: export as JSON too, and put the file there.")


def _layers(task: dict[str, Any], folder: Path) -> Iterator[Layer]:
    """The PNGs of a task's first annotation, in the order of drawing; named as Label Studio names them."""
    annotation = task["annotations"][0]
    counters: Counter[str] = Counter()
    for region in filter(_is_brush, annotation["result"]):
        labels = region["value"].get(region["type"].lower()) or ["no_label"]
        stem = f"{region['from_name']}-{'-'.join(labels)}"
        name = f"{stem}-{counters[stem]}".replace("/", "-").replace("\\", "-")
        counters[stem] += 1
        files = sorted(folder.glob(f"task-{task['id']}-annotation-{annotation['id']}-by-*-{_literal(name)}.png"))
        if not files:
            raise InputError(f"{folder} has no PNG of the label {labels[0]!r} of task {task['id']}: export it again.")
        yield clean(labels[0]), files[0]


def _is_brush(region: dict[str, Any]) -> bool:
    return "rle" in region.get("value", {}) and str(region.get("type")).lower() in ("brushlabels", "labels")


def _remarks(tasks: list[dict]) -> list[str]:
    others = sum(not _is_brush(region) for task in tasks for region in task["annotations"][0]["result"])
    several = sum(len(task["annotations"]) > 1 for task in tasks)
    remarks = [f"{others} regions are not of the brush and are left out."] if others else []
    return [*remarks, f"{several} tasks have several annotations: the first is used."] if several else remarks


def _literal(name: str) -> str:
    """So that letters which mean something in a pattern stand for themselves."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _image_of(task: dict[str, Any], files: Mapping[str, Path], images: Path) -> Path:
    """The image of a task, whose data names it as an address, an uploaded file or a local one."""
    texts = [value for value in task.get("data", {}).values() if isinstance(value, str)]
    for text in texts:
        parts = urlsplit(text)
        path = (parse_qs(parts.query).get("d") or [unquote(parts.path)])[0]
        name = path.replace("\\", "/").rpartition("/")[2]
        for candidate in (name, UPLOADED.sub("", name)):
            if candidate in files:
                return files[candidate]
    raise InputError(
        f"the image of task {task.get('id')} ({', '.join(texts) or 'not named'}) is not in {images}: name its "
        "folder with --images."
    )
