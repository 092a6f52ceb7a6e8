"""A small data set as a user has it, a folder with data.yaml, and the options of a run on it."""

from pathlib import Path

import numpy as np
from PIL import Image
from small_voc import SETTING, css, few_classes

from tasks.datasets.shapes import render

OPTIONS = [*SETTING[SETTING.index("--model.encoder") :], "--method", "frozen+align"]


def write_folder(root: Path, names: dict[int, str], values: dict[int, int], count: int = 20) -> Path:
    """Scenes whose shapes 1, 2, 3 have the mask values `values`, else background, and data.yaml."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index in range(count):
        image, mask = render(64, 0, "train", index)
        mask = few_classes(mask)
        raw = np.zeros(256, np.uint8)
        raw[[255, *values]] = [255, *values.values()]
        Image.fromarray(image).save(root / "images" / f"{index:03d}.png")
        Image.fromarray(raw[mask]).save(root / "masks" / f"{index:03d}.png")
    (root / "classes.txt").write_text("".join(f"{value}: {name}\n" for value, name in names.items()))
    assert css("data", "init", root).code == 0
    return root
