"""Compression of the pictures of reports against the defaults of pillow: seconds of CPU, bytes, and equal pixels.

    PYTHONPATH=. python benchmarks/pictures.py [IMAGE ...] [--rounds 5]

Without an image, strips of eight scenes in five columns, as `pictures.png` of a third task is: of scenes as large as
the pictures, and of small ones that are enlarged. All ways in turn, the median over the rounds.
"""

import argparse
import io
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from css.page.pictures import _QUALITY, embedded
from css.report.overlay import draw_overlay
from css.report.pictures import MOST, SIDE
from css.system.pictures import write_png
from tasks.datasets.shapes import render
from tasks.views import CentreCrop

SIZES = (SIDE, 96)  # pixels


def main() -> None:
    """Prints one line for every picture and format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    opened = {path.name: Image.open(path).convert("RGB") for path in arguments.images}
    pictures = opened or {f"scenes of {size} px": strip(size) for size in SIZES}
    with TemporaryDirectory() as folder:
        for name, picture in pictures.items():
            compare(f"{name}, PNG", arguments.rounds, lambda p=picture: saved(p, format="png"),
                    lambda p=picture: written(p, Path(folder) / "a.png"))  # fmt: skip
            assert Image.open(Path(folder) / "a.png").tobytes() == picture.tobytes()
            compare(f"{name}, WebP", arguments.rounds, lambda p=picture: saved(p, format="webp", quality=_QUALITY),
                    lambda p=picture: len(embedded(p)) * 3 // 4)  # fmt: skip


def strip(size: int) -> Image.Image:
    scenes = [CentreCrop(SIDE)(*render(size, 0, "test", index)) for index in range(MOST)]
    rows = [np.concatenate([photo, *[draw_overlay(photo, mask)] * 4], 1) for photo, mask in scenes]
    return Image.fromarray(np.concatenate(rows))


def compare(title: str, rounds: int, default, ours) -> None:
    seconds: tuple[list[float], list[float]] = ([], [])
    sizes = [0, 0]
    for _ in range(rounds):
        for place, way in enumerate((default, ours)):
            began = time.process_time()
            sizes[place] = way()
            seconds[place].append(time.process_time() - began)
    before, after = map(statistics.median, seconds)
    print(f"{title}: {before:.3f} s -> {after:.3f} s ({before / after:.2f} times as fast), "
          f"{100 * (sizes[1] / sizes[0] - 1):+.1f} % of {sizes[0]} bytes")  # fmt: skip


def saved(picture: Image.Image, **options) -> int:
    file = io.BytesIO()
    picture.save(file, **options)
    return file.tell()


def written(picture: Image.Image, path: Path) -> int:
    write_png(path, np.asarray(picture))
    return path.stat().st_size


if __name__ == "__main__":
    main()
