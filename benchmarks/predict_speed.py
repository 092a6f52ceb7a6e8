"""Seconds per image of a model in PyTorch (the run's precision), ONNX Runtime and OpenVINO, side by side.

    python benchmarks/predict_speed.py RUN [FILE.onnx] [FILE.xml] [--size 512] [--threads 2] [--rounds 7]

All see the same image, batch 1; each in turn, the median over the rounds. Preparation and softmax are included.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from css.predict.network import open_network
from tasks.datasets.shapes import render


def main() -> None:
    """Prints one line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = render(arguments.size, 0, "test", 0)[0]
    networks = {path: open_network(path) for path in arguments.models}
    seconds: dict[Path, list[float]] = {path: [] for path in networks}
    for _ in range(arguments.rounds + 1):
        for path, network in networks.items():
            seconds[path].append(_time(lambda network=network: network.scores(image)))
    first = statistics.median(seconds[arguments.models[0]][1:])
    for path, found in seconds.items():
        median = statistics.median(found[1:])  # the first round warms up
        print(f"{path}: {1000 * median:.0f} ms, {first / median:.2f} times as fast as the first")


def _time(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
