"""Seconds per image of a model in PyTorch (the run's precision), ONNX Runtime and OpenVINO, side by side.

    css export RUN --format onnx --out model
    css export RUN --format openvino --out model
    css export RUN --format openvino --out model8 --int8 --calibrate PHOTOS
    python benchmarks/predict_speed.py RUN model.onnx model.xml model8.xml [--size 512] [--threads 2] [--rounds 15]

All see the same image, batch 1, in turns; preparation and softmax are included. A ratio is that of two calls of one
round, so that what else the machine does hits both.
"""

import argparse
import os
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
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    use_cores(arguments.threads)
    image = render(arguments.size, 0, "test", 0)[0]
    networks = {path: open_network(path) for path in arguments.models}
    seconds: dict[Path, list[float]] = {path: [] for path in networks}
    for _ in range(arguments.rounds + 1):
        for path, network in networks.items():
            time.sleep(0.1)  # threads of the one before may still wait for work, busily
            seconds[path].append(_time(lambda network=network: network.scores([image])))
    print(f"{arguments.size} px, {arguments.threads} threads, {arguments.rounds} rounds; {processor()}")
    first = seconds[arguments.models[0]][1:]  # the first round warms up
    for path, network in networks.items():
        found = seconds[path][1:]
        ratios = sorted(before / now for before, now in zip(first, found, strict=True))
        print(
            f"{path} ({network.precision}): {1000 * statistics.median(found):.0f} ms; "
            f"{statistics.median(ratios):.2f} times as fast as the first ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def use_cores(threads: int) -> None:
    """Leaves this process so many cores, which every runtime takes for its number of threads."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise SystemExit(f"{threads} threads on {len(cores)} core(s) measure nothing; give --threads {len(cores)}.")
    os.sched_setaffinity(0, cores[:threads])
    torch.set_num_threads(threads)


def processor() -> str:
    """What it is called, and the units for bf16 and int8 that it has."""
    lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    facts = {name.strip(): value.strip() for name, value in lines}
    units = [unit for unit in ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni") if unit in facts["flags"].split()]
    return f"{facts['model name']} with {', '.join(units) or 'none of AMX, AVX512-BF16 and VNNI'}"


def _time(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
