"""Writes a tiny copy of Cityscapes: the official layout, file names and label ids, invented pixels.

python tests/data/cityscapes/data.py OUT
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

# The cities of the official splits; three and two images of each here, 2,975 and 500 in all there.
CITIES = {
    "train": ["aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg", "hanover",
              "jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen", "ulm", "weimar", "zurich"],
    "val": ["frankfurt", "lindau", "munster"],
}  # fmt: skip
IMAGES = {"train": 3, "val": 2}
SIZE = (64, 32)


def write(out: Path) -> Path:
    """Every mask holds seven of the 34 label ids, some of which do not count; other official files are there, too."""
    for split, cities in CITIES.items():
        for place, city in enumerate(cities):
            for kind in ("leftImg8bit", "gtFine"):
                (out / kind / split / city).mkdir(parents=True)
            for frame in range(IMAGES[split]):
                rng = np.random.default_rng([place, frame])
                stem = f"{city}_{frame:06d}_000019"
                values = ((place + frame) * 7 + np.arange(7)) % 34
                mask = np.resize(np.repeat(values, 5), SIZE[::-1]).astype(np.uint8)
                pixels = np.clip(5 * mask[..., None] + rng.integers(0, 60, (*SIZE[::-1], 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(out / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
                target = out / "gtFine" / split / city
                Image.fromarray(mask).save(target / f"{stem}_gtFine_labelIds.png")
                Image.fromarray(pixels).save(target / f"{stem}_gtFine_color.png")
                (target / f"{stem}_gtFine_polygons.json").write_text('{"imgHeight": 32, "imgWidth": 64, "objects": []}')
    return out


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
