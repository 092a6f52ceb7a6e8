"""What casts cost in a step of PLOP: shares of operations, and a teacher whose weights are cast once.

    PYTHONPATH=.:benchmarks python benchmarks/step_copies.py [--encoder resnet50] [--crop 96] [--batch 16]

bf16 autocast on a CPU, noise in memory. The teacher with weights in bf16 gives the same bits: it is what autocast makes
of them in every forward pass. CPU seconds, both in turn.
"""

import argparse
import copy
import statistics
import time

import torch
from published_step import NEW, OLD
from torch import nn
from torch.profiler import ProfilerActivity, profile

from css.losses import upsample
from css.model.segmenter import Segmenter
from plop_baseline.pod import pod_loss
from plop_baseline.pseudo_labels import pseudo_label, weighted_cross_entropy

SHOWN = 12  # operations
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = Segmenter(arguments.encoder).to(memory_format=torch.channels_last)
    model.grow(range(OLD))
    teacher = model.frozen()
    model.grow([OLD])
    shape = (arguments.batch, 3, arguments.crop, arguments.crop)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.where(torch.rand(shape[0], *shape[2:]) < 0.9, 0, OLD).byte()
    compare_teachers(teacher, images)
    step(model.train(), teacher, images, labels)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(model, teacher, images, labels)
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    for event in events[:SHOWN]:
        print(f"{event.key:36} {event.self_cpu_time_total / whole:6.1%}")


def compare_teachers(teacher: Segmenter, images: torch.Tensor) -> None:
    cast = copy.deepcopy(teacher)
    for part in (cast.encoder, cast.decoder):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = layer.weight.data.bfloat16()
    rows = [(seconds(teacher, images), seconds(cast, images)) for _ in range(ROUNDS + 1)][1:]
    ratio = statistics.median(second / first for first, second in rows)
    print(f"teacher, weights in bf16: {ratio:.3f} of the time with float32 weights")


@torch.no_grad()
def seconds(network: Segmenter, images: torch.Tensor) -> float:
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        network(images)
    return time.process_time() - began


def step(model: Segmenter, teacher: Segmenter, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Forward and backward, without the optimiser."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            old = teacher(images)
            thresholds = torch.full((OLD + NEW,), 0.5)
            targets, factor = pseudo_label(upsample(old.logits, labels), labels, thresholds, OLD + NEW, 0.0)
        new = model(images)
        maps = ([*output.taps, output.features, output.logits] for output in (old, new))
        loss = weighted_cross_entropy(upsample(new.logits, labels), targets, factor) + pod_loss(*maps, OLD + NEW, NEW)
    loss.backward()


if __name__ == "__main__":
    main()
