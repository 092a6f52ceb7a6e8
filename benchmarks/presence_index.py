"""CPU milliseconds per pair of the check of images and masks at the first start, of two builds in turn.

    python benchmarks/presence_index.py OLD NEW [--pairs 100] [--side 500] [--rounds 5]

OLD and NEW are checkouts. Images are JPEG of a smooth scene with noise, masks PNG with a palette, made for the
occasion; two workers, so that CPU seconds are those of both. Every round is a process of its own.
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    builds = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), arguments.pairs, arguments.side)
        rounds = [
            {name: measured(path, Path(folder)) for name, path in builds.items()} for _ in range(arguments.rounds)
        ]
    for name in builds:
        spent = [row[name] for row in rounds]
        print(f"{name} {statistics.median(spent):.2f} ms ({min(spent):.2f} to {max(spent):.2f})")
    print(f"ratio {statistics.median(row['old'] / row['new'] for row in rounds):.2f}")


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


def measured(checkout: Path, folder: Path) -> float:
    """In a process with this build; its cache is thrown away."""
    code = "import sys; sys.path.insert(0, sys.argv[3]); from presence_index import worker; worker(*sys.argv[1:3])"
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", code, folder, cache, Path(__file__).parent.resolve()]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=checkout)
    return json.loads(found.stdout.splitlines()[-1])


def worker(folder: str, cache: str) -> None:
    """The scan, in either build: its module has another name."""
    import tasks

    home = Path(next(iter(tasks.__path__)))
    scan = __import__("tasks.reading" if (home / "reading.py").exists() else "tasks.presence", fromlist=["scan"]).scan
    images = sorted(Path(folder).glob("*.jpg"))
    began = time.process_time()
    scan([(image, image.with_suffix(".png")) for image in images], range(3), 2, Path(cache))
    print(json.dumps(1000 * (time.process_time() - began) / len(images)))


if __name__ == "__main__":
    main()
