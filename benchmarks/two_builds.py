"""CPU seconds of a step of two builds in turn, and how far their losses are apart.

    python benchmarks/two_builds.py OLD NEW [--method plop] [--encoder resnet18] [--crop 128] [--batch 16] [--steps 20]

OLD and NEW are checkouts, each with a process of its own; both learn the same noise from the same random weights, one
thread. A step of finetune or plop is the losses (for PLOP with the teacher and its pseudo labels), backward and SGD, 15
old classes and one new one. Parts of Split2MetaFusion: fusion is two steps of the gates on 8 old and 8 new images
(always, whatever --batch), dream is two steps of --batch dreams. Processes take turns step by step, so that other work
on the machine meets both.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OLD_CLASSES = 16  # background included


def main() -> None:
    arguments = parse()
    if arguments.worker:
        for entry in steps(arguments):
            print(json.dumps(entry), flush=True)
        return
    builds = {name: started(path.resolve()) for name, path in (("old", arguments.old), ("new", arguments.new))}
    rows = [{name: answer(build) for name, build in builds.items()} for _ in range(arguments.steps)]
    size = f"{arguments.crop} px, batch {arguments.batch}, {rows[0]['new']['precision']}"
    print(f"{arguments.method}, {arguments.encoder}, {size}, {arguments.steps} steps")
    for name in builds:
        spent = [1000 * row[name]["seconds"] for row in rows[1:]]
        print(f"  {name} {statistics.median(spent):.0f} ms ({min(spent):.0f} to {max(spent):.0f})")
    ratios = sorted(row["old"]["seconds"] / row["new"]["seconds"] for row in rows[1:])
    apart = max(abs(row["old"]["loss"] / row["new"]["loss"] - 1) for row in rows)
    print(f"  ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), losses within {apart:.0e}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--method", choices=["finetune", "plop", "fusion", "dream"], default="plop")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def started(checkout: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--worker"]
    return subprocess.Popen(
        command, env=environment, cwd=checkout, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def answer(build: subprocess.Popen) -> dict[str, Any]:
    """What a build says of its next step, for which it waits until it is asked."""
    assert build.stdin and build.stdout
    build.stdin.write("\n")
    build.stdin.flush()
    return json.loads(build.stdout.readline())


def steps(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One entry a step; the same calls in both builds, whose modules have other names."""
    import torch

    torch.manual_seed(0)
    model = named("css.model.segmenter", "css.model").Segmenter(arguments.encoder)
    model.to(memory_format=torch.channels_last).grow(range(OLD_CLASSES))
    teacher = model.frozen()
    model.grow([OLD_CLASSES])
    shape = (arguments.batch, 3, arguments.crop, arguments.crop)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    makers = {"plop": training, "finetune": training, "fusion": fusing, "dream": dreaming}
    step = makers[arguments.method](torch, arguments, model, teacher, images)
    for _ in range(arguments.steps):
        input()  # until it is asked
        began = time.process_time()
        loss = step()
        spent = time.process_time() - began
        yield {"seconds": spent, "loss": loss, "precision": arguments.precision}


def training(torch: Any, arguments: argparse.Namespace, model: Any, teacher: Any, images: Any) -> Callable[[], float]:
    labels = torch.where(torch.rand(len(images), *images.shape[2:]) < 0.9, 0, OLD_CLASSES).byte()
    settings = named("css.config.settings", "css.config")
    optimizer = named("css.training.optimizer", "css.optimizer").make_optimizer(settings.TrainConfig(), model, 1e-3)
    loss_of = plop if arguments.method == "plop" else finetune
    model.train()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch, arguments):
            loss = loss_of(torch, model, teacher, images, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def fusing(torch: Any, arguments: argparse.Namespace, model: Any, teacher: Any, images: Any) -> Callable[[], float]:
    fusion = importlib.import_module("css.fusion")
    options = getattr(fusion, "FusionOptions", None) or importlib.import_module("css.fusion.meta").FusionOptions
    slow = {name: value.detach().clone() for name, value in model.state_dict().items()}
    fast = {name: value * (1 + 0.1 * torch.rand(value.shape)) if value.is_floating_point() else value
            for name, value in slow.items()}  # fmt: skip
    slow, fast = ({name: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
                   for name, value in state.items()} for state in (slow, fast))  # fmt: skip
    found = fusion.MetaFusion(model, slow, fast, teacher, OLD_CLASSES, options(steps=2), 0, ["classifiers.1."])
    old, new = (torch.randn(11, *images.shape[1:]).contiguous(memory_format=torch.channels_last) for _ in range(2))

    def step() -> float:
        with autocast(torch, arguments):
            history = found.fuse(old, new).history
        return history[-1]["old"] + history[-1]["new"]

    return step


def dreaming(torch: Any, arguments: argparse.Namespace, model: Any, teacher: Any, images: Any) -> Callable[[], float]:
    dreams, layouts = named("css.dream.dreamer", "css.dream"), named("css.dream.layouts", "css.layouts")
    dreamer = dreams.Dreamer(teacher, dreams.DreamOptions(steps=2, coarse_share=0.0))
    queries = layouts.sample_layouts(len(images), images.shape[-1], range(1, OLD_CLASSES), 0)

    def step() -> float:
        with autocast(torch, arguments):
            return dreamer.dream(queries).history[-1]["ce"]

    return step


def autocast(torch: Any, arguments: argparse.Namespace) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16")


def finetune(torch: Any, model: Any, teacher: Any, images: Any, labels: Any) -> Any:
    return importlib.import_module("css.losses").cross_entropy(model(images).logits, labels)


def plop(torch: Any, model: Any, teacher: Any, images: Any, labels: Any) -> Any:
    upsample = importlib.import_module("css.losses").upsample
    pseudo, pod = (importlib.import_module(f"plop_baseline.{name}") for name in ("pseudo_labels", "pod"))
    with torch.no_grad():
        old = teacher(images)
        thresholds = torch.full((OLD_CLASSES + 1,), 0.02)  # of an entropy whose largest value is 0.022
        targets, factor = pseudo.pseudo_label(upsample(old.logits, labels), labels, thresholds, OLD_CLASSES + 1, 0.0)
    new = model(images)
    maps = ([*output.taps, output.features, output.logits] for output in (old, new))
    loss = pseudo.weighted_cross_entropy(upsample(new.logits, labels), targets, factor)
    return loss + pod.pod_loss(*maps, OLD_CLASSES + 1, 1)


def named(path: str, before: str) -> Any:
    """A module by its name in this build, or by that in 0.1."""
    home = Path(importlib.import_module("css").__path__[0])
    return importlib.import_module(path if (home / "system").is_dir() else before)


if __name__ == "__main__":
    main()
