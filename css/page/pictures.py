"""Pictures of a run as part of a page."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

_QUALITY = 80
_EFFORT = 2  # of 6; the default, 4, takes twice as long for a few percent fewer bytes
_WIDEST = 4096  # pixels
_WHY = {"best": "Best test image", "median": "Median test image", "worst": "Worst test image"}


class Panel(NamedTuple):
    """One picture of a page."""

    title: str
    alt: str
    data: str  # the content of src
    width: int  # in pixels


class Row(NamedTuple):
    """Pictures of one test image."""

    title: str
    panels: list[Panel]


def example_rows(home: Path, facts: list[Mapping[str, Any]], names: list[str]) -> list[Row]:
    """The examples of a task: ground truth, prediction, errors. Those whose file is gone are left out.

    Args:
        home: Folder of the task.
        facts: `pictures` of its result.
        names: Of classes, by id.
    """
    rows = []
    for fact in facts:
        path = home / fact["file"]
        if not path.is_file():
            continue
        what = _WHY.get(fact["why"]) or f"{names[fact['class_id']]}: where most of it is missed"
        score = f"IoU {100 * fact['iou']:.0f} %" + (" of this class" if "class_id" in fact else " over its objects")
        title = f"{what} ({fact['image']}), {score}"
        with Image.open(path) as picture:
            side, head = picture.width // 3, fact["head"]
            parts = [picture.crop((side * n, head, side * (n + 1), head + side)) for n in range(3)]
        kinds = ("Ground truth", "Prediction", "Errors")
        panels = [Panel(kind, f"{kind}. {title}", embedded(p), p.width) for kind, p in zip(kinds, parts, strict=True)]
        rows.append(Row(title, panels))
    return rows


def strip(path: Path, title: str) -> Panel | None:
    """A picture file as a whole; None if it is not there."""
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        picture.thumbnail((_WIDEST, 4 * _WIDEST))
        return Panel(title, title, embedded(picture), picture.width)


def embedded(picture: Image.Image) -> str:
    """A picture as a data URL (WebP, a tenth of the size of PNG)."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "webp", quality=_QUALITY, method=_EFFORT)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
