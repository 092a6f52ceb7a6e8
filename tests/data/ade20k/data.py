"""Writes a tiny copy of ADE20K's SceneParsing benchmark: the official layout and table format, invented pixels.

python tests/data/ade20k/data.py OUT
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = "ADEChallengeData2016"
IMAGES = {"training": 40, "validation": 20}  # 20,210 and 2,000 of the real one
CLASSES = 150
SIZE = (32, 24)


def write(out: Path) -> Path:
    """Image k of a split holds, beside "other" (0), eight classes from 8 k + 1 on, round the 150."""
    root = out / FOLDER
    for split, count in IMAGES.items():
        rng = np.random.default_rng(len(split))
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(1, count + 1):
            name = f"ADE_{'train' if split == 'training' else 'val'}_{number:08d}"
            values = [0, *((8 * (number - 1) + step) % CLASSES + 1 for step in range(8))]
            mask = np.resize(np.repeat(np.array(values, np.uint8), 4), SIZE[::-1])
            pixels = np.clip(mask[..., None] + rng.integers(0, 100, (*SIZE[::-1], 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{name}.jpg")
            Image.fromarray(mask).save(root / "annotations" / split / f"{name}.png")
    rows = [f"{i}\t0.0100\t{IMAGES['training']}\t{IMAGES['validation']}\t0\t{_name(i)}" for i in range(1, CLASSES + 1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]) + "\n")
    return root


def _name(index: int) -> str:
    """Names as in the real table, which gives synonyms: the first of them, and a first one that two classes share."""
    return {1: "wall", 2: "building, edifice", 3: "screen, door", 4: "screen, silver"}.get(index, f"thing {index}, it")


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
