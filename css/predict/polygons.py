"""Masks as polygons, for annotation tools: COCO's and labelme's JSON."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from css.report.overlay import objects

_TOLERANCE = 1.0  # pixels that a simplified outline may be off


class Polygon(NamedTuple):
    """One connected region of a class."""

    class_id: int
    points: np.ndarray  # (N, 2) float, x and y of pixel centres; holes are cut in by a bridge of no width
    area: int  # pixels
    box: tuple[int, int, int, int]  # x, y, width, height


def polygons(mask: np.ndarray) -> Iterator[Polygon]:
    """Every region of every class but the background, without those that are too small for three corners."""
    for label in objects(mask):
        count, regions, stats, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            x, y, width, height, area = map(int, stats[number])
            region = (regions[y : y + height, x : x + width] == number).astype(np.uint8)
            points = _outline(region)
            if len(points) >= 3:
                yield Polygon(label, points + np.array([x, y]), area, (x, y, width, height))


def _outline(region: np.ndarray) -> np.ndarray:
    """The outer contour of one region with its holes cut in."""
    contours, tree = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    simple = [cv2.approxPolyDP(contour, _TOLERANCE, closed=True)[:, 0] for contour in contours]
    outer = next(number for number, (*_, parent) in enumerate(tree[0]) if parent < 0)
    points = simple[outer].astype(float)
    for number, hole in enumerate(simple):
        if number != outer and len(hole) >= 3:
            points = _cut(points, hole.astype(float))
    return points


def _cut(points: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The polygon goes to the hole where they are nearest, round it, and back the same way."""
    distance = np.linalg.norm(points[:, None] - hole[None], axis=2)
    here, there = np.unravel_index(int(distance.argmin()), distance.shape)
    round_trip = np.concatenate([hole[there:], hole[: there + 1]])
    return np.concatenate([points[: here + 1], round_trip, points[here:]])


def coco(images: list[tuple[str, int, int, list[Polygon]]], names: dict[int, str]) -> dict[str, Any]:
    """A COCO data set of (file, height, width, polygons); categories have the raw class ids."""
    annotations = [
        {"image_id": image, "category_id": found.class_id, "segmentation": [found.points.ravel().tolist()],
         "area": found.area, "bbox": list(found.box), "iscrowd": 0}
        for image, (*_, polygons_) in enumerate(images, 1)
        for found in polygons_
    ]  # fmt: skip
    return {
        "images": [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, (file, height, width, _) in enumerate(images, 1)
        ],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, 1)],
        "categories": [{"id": class_id, "name": name} for class_id, name in names.items()],
    }


def labelme(path: str, height: int, width: int, found: list[Polygon], names: dict[int, str]) -> dict[str, Any]:
    """labelme's file of one image, whose path is relative to it."""
    shapes = [
        {"label": names[polygon.class_id], "points": polygon.points.tolist(), "group_id": None,
         "shape_type": "polygon", "flags": {}}
        for polygon in found
    ]  # fmt: skip
    return {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": None,
            "imageHeight": height, "imageWidth": width}  # fmt: skip
