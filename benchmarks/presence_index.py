"""CPU milliseconds per pair of images and masks, of two builds in turn: checked at the first start, read in training.

    python benchmarks/presence_index.py OLD NEW [--pairs 100] [--side 500] [--rounds 5] [--crops 96 512]

OLD and NEW are checkouts. Images are JPEG of a smooth scene with noise, masks PNG with a palette, made for the
occasion. The check has two workers, so that CPU seconds are those of both. In training a pair is decoded, a random crop
of it is resized, and both become tensors, in one thread. Every round is a process of its own.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PASSES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crops", type=int, nargs="+", default=[96, 512])
    arguments = parser.parse_args()
    builds = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), arguments.pairs, arguments.side)
        rounds = [
            {name: measured(path, Path(folder), arguments.crops) for name, path in builds.items()}
            for _ in range(arguments.rounds)
        ]
    for part in rounds[0]["new"]:
        spent = {name: [row[name][part] for row in rounds] for name in builds}
        said = [f"{name} {statistics.median(ms):.2f} ms ({min(ms):.2f} to {max(ms):.2f})" for name, ms in spent.items()]
        ratio = statistics.median(row["old"][part] / row["new"][part] for row in rounds)
        print(f"{part}: {', '.join(said)}, ratio {ratio:.2f}")


def write_pairs(folder: Path, pairs: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(pairs):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8)).resize((side, side * 3 // 4))
        noise = rng.normal(0, 8, (side * 3 // 4, side, 3))
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
        mask = Image.fromarray(rng.integers(3, size=(6, 8), dtype=np.uint8)).resize(
            coarse.size, Image.Resampling.NEAREST
        )
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        mask.save(folder / f"{number}.png")


def measured(checkout: Path, folder: Path, crops: list[int]) -> dict[str, float]:
    """In a process with this build; its cache is thrown away."""
    code = "import sys; sys.path.insert(0, sys.argv[3]); from presence_index import worker; worker(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", code, folder, cache, Path(__file__).parent.resolve(), *map(str, crops)]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=checkout)
    return json.loads(found.stdout.splitlines()[-1])


def worker(folder: str, cache: str, _: str, *crops: str) -> None:
    """The same calls in either build, whose modules have other names."""
    import tasks

    home = Path(next(iter(tasks.__path__)))
    renamed = (home / "reading.py").exists()
    scan = importlib.import_module("tasks.reading" if renamed else "tasks.presence").scan
    images = sorted(Path(folder).glob("*.jpg"))
    pairs = [(image, image.with_suffix(".png")) for image in images]
    began = time.process_time()
    scan(pairs, range(3), 2, Path(cache))
    found = {"check": 1000 * (time.process_time() - began) / len(pairs)}
    for crop in crops:
        found[f"training, {crop} px"] = read_in_training(pairs, int(crop), renamed)
    print(json.dumps(found))


def read_in_training(pairs: list[tuple[Path, Path]], crop: int, renamed: bool) -> float:
    """Milliseconds a pair, of the quickest of some passes."""
    import cv2

    cv2.setNumThreads(0)  # as in the workers of a loader
    batches, views = (
        importlib.import_module(f"tasks.{name if renamed else 'images'}") for name in ("batches", "views")
    )
    voc = importlib.import_module("tasks.datasets.voc" if renamed else "tasks.voc").Voc
    source = object.__new__(voc)
    source._root, source._items = Path("/"), {"train": [(image, image, mask)[not renamed :] for image, mask in pairs]}
    source._colours = None
    items = batches.TaskImages(
        source, "train", np.arange(len(pairs)), np.arange(256, dtype=np.uint8), views.RandomCrop(crop)
    )
    spent = []
    for _ in range(PASSES):
        began = time.process_time()
        for position in range(len(items)):
            items[position, position]
        spent.append(time.process_time() - began)
    return 1000 * min(spent) / len(items)


if __name__ == "__main__":
    main()
