"""CPU seconds of a later task of frozen features, of two builds in turn: what is learnt, and what is remembered.

    python benchmarks/frozen_task.py OLD NEW --data-root VOC [--method frozen+align] [--images 299] [--epochs 8]

OLD and NEW are checkouts. DeepLabV3-ResNet-50 (no weights: they cost no time) at 96 px, batch 16, one thread, images
decoded in the same process; every round is a process of its own. Tests are not counted: no build changes them.
"""

import argparse
import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FIRST = 32  # images of the first task, whose features are remembered


def main() -> None:
    arguments = parse()
    if arguments.worker:
        print(json.dumps(worker(arguments)))
        return
    builds = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    rounds = [{name: measured(path) for name, path in builds.items()} for _ in range(arguments.rounds)]
    print(f"{arguments.method}, {arguments.images} images, {arguments.epochs} epochs, {arguments.rounds} rounds")
    for part in ("learn", "remember", "together"):
        spent = {name: [row[name][part] for row in rounds] for name in builds}
        ratio = statistics.median(row["old"][part] / row["new"][part] for row in rounds)
        said = [f"{name} {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"
                for name, values in spent.items()]  # fmt: skip
        print(f"  {part:9} {', '.join(said)}, ratio {ratio:.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--method", default="frozen+align")
    parser.add_argument("--images", type=int, default=299)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(checkout: Path) -> dict[str, float]:
    """CPU seconds of the parts of the task, in a process with this build."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, Path(__file__).resolve(), *sys.argv[1:], "--worker"]
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=checkout)
    seconds = json.loads(found.stdout.splitlines()[-1])
    return seconds | {"together": sum(seconds.values())}


def worker(arguments: argparse.Namespace) -> dict[str, float]:
    """The same calls in both builds, whose modules have other names."""
    settings = named("css.config.settings", "css.config")
    classes = ("cat", "cow", "dog", "horse", "person", "sheep")
    config = settings.RunConfig(
        "voc", "4-1", arguments.method, classes=classes, data_root=arguments.data_root,
        model=settings.ModelConfig("resnet50", "none"),
        train=settings.TrainConfig(epochs=arguments.epochs, batch=16, crop=96, workers=0),
        options=make_method(arguments.method).options,
    )  # fmt: skip
    checks = named("css.run.checks", "css.run")
    resolve = checks.resolve if hasattr(checks, "resolve") else settings.resolve
    config, torch = resolve(config), importlib.import_module("torch")
    stream, processes = checks.checked_stream(config, 1), named("css.system.processes", "css.processes").Processes()
    first, later = stream.task(0), stream.task(1)
    first = dataclasses.replace(first, train_indices=first.train_indices[:FIRST])
    later = dataclasses.replace(later, train_indices=later.train_indices[: arguments.images])
    model = named("css.model.segmenter", "css.model").Segmenter("resnet50").to(memory_format=torch.channels_last)
    model.grow(first.new_classes)
    method = make_method(arguments.method)
    with tempfile.TemporaryDirectory() as folder:
        trainers = [trainer_of(config, processes, Path(folder, str(number))) for number in (0, 1)]
        method.finish(first, model, trainers[0])
        teacher = model.frozen()
        model.grow(later.new_classes)
        began = time.process_time()
        method.learn(later, model, teacher, trainers[1])
        learnt = time.process_time()
        method.finish(later, model, trainers[1])
        return {"learn": learnt - began, "remember": time.process_time() - learnt}


def named(path: str, before: str) -> Any:
    """A module by its name in this build, or by that in 0.1."""
    home = Path(importlib.import_module("css").__path__[0])
    return importlib.import_module(path if (home / "system").is_dir() else before)


def trainer_of(config: Any, processes: Any, folder: Path) -> Any:
    folder.mkdir()
    log = named("css.system.log", "css.log").Log(None)
    return named("css.training.trainer", "css.trainer").Trainer(config, processes, folder, log)


def make_method(method: str) -> Any:
    registry = named("css.method.registry", "css.method")
    return registry.make_method(method) if hasattr(registry, "make_method") else registry.method_class(method)()


if __name__ == "__main__":
    main()
