"""css predict as a user calls it: a folder of photographs against another build, and a very large image in tiles.

    python benchmarks/predict_folder.py RUN --before CHECKOUT [--photos FOLDER] [--count 200] [--rounds 3]
    python benchmarks/predict_folder.py RUN --megapixels 100 [--tile 512]

RUN is a run that both builds open: made by the older one, or a newer one's without the settings in its config.yaml that
the older one does not know (it names them; for 0.1 track, keep, classifier_features, later_rates, version). Without
photographs of the user's, 500 x 375 pixels are drawn. Everything is included: start, decoding, the network, masks and
overlays on disk. The builds take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from tasks.datasets.shapes import render

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megapixels", type=float)
    parser.add_argument("--tile", type=int, default=512)
    arguments = parser.parse_args()
    run = arguments.run.resolve()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if arguments.before:
            photos = _photographs(arguments.photos, arguments.count, scratch)
            _compare(run, arguments.before.resolve(), photos, arguments.rounds, scratch)
        if arguments.megapixels:
            _large(run, arguments.megapixels, arguments.tile, scratch)


def _photographs(given: Path | None, count: int, scratch: Path) -> list[Path]:
    if given:
        return sorted(given.resolve().glob("*.jpg"))[:count]
    files = [scratch / f"photo_{index:03}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        cv2.imwrite(str(file), cv2.resize(render(512, 0, "test", index % 20)[0][:, :, ::-1], (500, 375)))
    return files


def _compare(run: Path, before: Path, photos: list[Path], rounds: int, scratch: Path) -> None:
    seconds: dict[Path, list[float]] = {before: [], ROOT: []}
    for number in range(rounds):
        for build, found in seconds.items():
            found.append(_predict(build, run, photos, scratch / f"{build.name}_{number}")[0])
    ratios = sorted(a / b for a, b in zip(seconds[before], seconds[ROOT], strict=True))
    print(f"{len(photos)} photographs, {rounds} rounds: {statistics.median(seconds[before]):.1f} s before, "
          f"{statistics.median(seconds[ROOT]):.1f} s now, {statistics.median(ratios):.2f} times as fast "
          f"({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip


def _large(run: Path, megapixels: float, tile: int, scratch: Path) -> None:
    side = round(1000 * megapixels**0.5)
    image = cv2.resize(render(1024, 0, "test", 0)[0], (side, side), interpolation=cv2.INTER_LINEAR)
    path = scratch / "large.jpg"
    cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
    options = ("--tile", str(tile), "--overlap", "64", "--save", "mask", "overlay", "csv")
    seconds, peak = _predict(ROOT, run, [path], scratch / "large", *options)
    print(f"{side} x {side} pixels in tiles of {tile}: {peak:.0f} MiB at the most, {seconds:.0f} s")


def _predict(build: Path, run: Path, photos: list[Path], out: Path, *options: str) -> tuple[float, float]:
    """Seconds and peak memory in MiB of css predict in a process of its own. Ends with an error if it does."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "css", "predict", str(run), *map(str, photos)]
    process = subprocess.Popen([*command, "--out", str(out), *options], cwd=build, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{build}: css predict ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 2**10


if __name__ == "__main__":
    main()
