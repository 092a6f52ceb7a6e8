"""Masks of a folder written as COCO json and labelme json, read back by `css data convert`, and compared.

    PYTHONPATH=. python benchmarks/other_formats.py FOLDER --out OUT [--crop 160]

"coco runs": an object is the run lengths of a class. "coco outlines" and "labelme": the outermost pixels of every
connected part, larger parts first, so that what lies inside is drawn on top. Void is a crowd in COCO, "__ignore__" in
labelme. What training sees are the crops of one epoch.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from css.cli.data import convert
from tasks.batches import TaskImages
from tasks.folder import Folder
from tasks.folder.description import read
from tasks.folder.pairs import pairs
from tasks.formats.labelme import IGNORE
from tasks.renamed import Renamed
from tasks.source import BACKGROUND, VOID
from tasks.views import RandomCrop

KEYS = {"train": "train", "test": "val"}


class Part(NamedTuple):
    """A connected part of one value in a mask."""

    value: int
    outline: np.ndarray  # (N, 2) x and y of its outermost pixels
    size: int  # pixels on and within the outline


class Picture(NamedTuple):
    """An image and its label map."""

    path: Path
    labels: np.ndarray


def main() -> None:
    """Writes the json files and the folders made of them, and prints how they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crop", type=int, default=160)
    given = parser.parse_args()
    own = Folder(given.folder)
    for form, write in (("coco-runs", write_runs), ("coco-outlines", write_outlines), ("labelme", write_labelme)):
        place = given.out / form
        sources = [write(list(pictures(given.folder, own, split)), own, place / key) for split, key in KEYS.items()]
        convert(tuple(sources), place / "folder", (_images(given.folder, own),))
        print(f"{form}: {compared(own, Folder(place / 'folder'), given.crop)}")


def pictures(folder: Path, own: Folder, split: str) -> Iterator[Picture]:
    """All images of a split, with raw class ids."""
    files = [image for _, image, _ in pairs(folder, getattr(read(folder), KEYS[split]))]
    for index, path in enumerate(tqdm(files, f"writing {split}", disable=None)):
        yield Picture(path, own.load(split, index)[1])


def _images(folder: Path, own: Folder) -> Path:
    files = [image.resolve() for key in KEYS.values() for _, image, _ in pairs(folder, getattr(read(folder), key))]
    return Path(os.path.commonpath([file.parent for file in files]))


def parts(labels: np.ndarray) -> list[Part]:
    """Connected parts (of four neighbours), the largest first, the background among them."""
    found = []
    for value in np.unique(labels).tolist():
        number, numbered = cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=4)
        for part in range(1, number):
            ours = (numbered == part).astype(np.uint8)
            outlines, _ = cv2.findContours(ours, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(ours, outlines, 0, 1, cv2.FILLED)
            found.append(Part(value, outlines[0][:, 0], int(ours.sum())))
    return sorted(found, key=lambda part: -part.size)


def write_runs(given: Sequence[Picture], own: Folder, folder: Path) -> Path:
    """COCO json, one object a class and image, by its run lengths."""

    def objects(labels: np.ndarray) -> Iterator[dict[str, Any]]:
        for value in set(np.unique(labels).tolist()) - {BACKGROUND}:
            yield _object(value, _runs(labels == value))

    return _write_coco(given, own, folder, objects)


def write_outlines(given: Sequence[Picture], own: Folder, folder: Path) -> Path:
    """COCO json, one object a part, by its outline; void by run lengths."""

    def objects(labels: np.ndarray) -> Iterator[dict[str, Any]]:
        for part in parts(labels):
            if part.value not in (BACKGROUND, VOID):
                yield _object(part.value, [_points(part).ravel().tolist()])
        yield _object(VOID, _runs(labels == VOID))

    return _write_coco(given, own, folder, objects)


def _object(value: int, segmentation: Any) -> dict[str, Any]:
    crowd = int(value == VOID)
    return {"category_id": 1 if crowd else value, "iscrowd": crowd, "segmentation": segmentation}


def _runs(pixels: np.ndarray) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}


def _points(part: Part) -> np.ndarray:
    """At least three, as polygons must have."""
    return np.resize(part.outline, (max(3, len(part.outline)), 2))


def _write_coco(given: Sequence[Picture], own: Folder, folder: Path, objects: Any) -> Path:
    images, annotations = [], []
    for number, (path, labels) in enumerate(given):
        height, width = labels.shape
        images.append({"id": number, "file_name": str(path.resolve()), "width": width, "height": height})
        annotations += [{"image_id": number, **found} for found in objects(labels)]
    names = [{"id": value, "name": name} for value, name in enumerate(own.class_names) if value]
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations)]
    return _write(folder / "coco.json", {"images": images, "annotations": numbered, "categories": names})


def write_labelme(given: Sequence[Picture], own: Folder, folder: Path) -> Path:
    """A json file for each image, a polygon for each part."""
    names = {**dict(enumerate(own.class_names)), BACKGROUND: "_background_", VOID: IGNORE}
    for path, labels in given:
        shapes = [
            {"label": names[part.value], "shape_type": "polygon", "points": _points(part).tolist()}
            for part in parts(labels)
        ]
        _write(folder / f"{path.stem}.json", {"imagePath": str(path.resolve()), "shapes": shapes})
    return folder


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def compared(own: Folder, other: Folder, crop: int) -> str:
    """The share of pixels that differ, in whole masks and in training crops, and of those that no border explains."""
    theirs, lut = Renamed(other, own.class_names), np.arange(256, dtype=np.uint8)
    order = {theirs.image_id("train", index): index for index in range(len(theirs.presence("train")))}
    total = differing = far = seen = changed = 0
    for index in range(len(order)):
        place = order[own.image_id("train", index)]
        one, two = own.load("train", index)[1], theirs.load("train", place)[1]
        unlike = one != two
        total, differing = total + one.size, differing + int(unlike.sum())
        far += int((unlike & ~before_border(one)).sum())
        views = [
            TaskImages(source, "train", np.array([number]), lut, RandomCrop(crop))[0, index][1].numpy()
            for source, number in ((own, index), (theirs, place))
        ]
        seen, changed = seen + views[0].size, changed + int((views[0] != views[1]).sum())
    return (
        f"{100 * differing / total:.3f} % of the pixels differ, {100 * far / total:.4f} % elsewhere than at a right or "
        f"lower border; in crops of {crop} px {100 * changed / seen:.3f} %"
    )


def before_border(labels: np.ndarray) -> np.ndarray:
    """Where the neighbour to the right, below, or right below has another value."""
    wider = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    return (wider[:-1, 1:] != labels) | (wider[1:, :-1] != labels) | (wider[1:, 1:] != labels)


if __name__ == "__main__":
    main()
