"""One step of dreaming, with BatchNorm's deviations as we compute them and as PyTorch's `mean` and `var` would.

    PYTHONPATH=. python benchmarks/dreams.py

DeepLabV3-ResNet-50, 32 dreams at 96 px, in the precision that `--train.precision auto` chooses. Both run
alternately; the median seconds of a step and the median of the ratios are printed.
"""

from statistics import median
from time import perf_counter
from unittest import mock

import torch
from torch import Tensor

from css.dream import priors as image_priors
from css.dream.dreamer import Dreamer, DreamOptions
from css.dream.layouts import sample_layouts
from css.model.segmenter import Segmenter
from css.run.checks import resolve
from css.run.presets import preset
from css.system.processes import Processes
from css.training.loaders import autocast

ROUNDS, STEPS, DREAMS, SIZE = 5, 3, 32, 96


def plain_deviation(x: Tensor, running_mean: Tensor, running_var: Tensor) -> tuple[Tensor, Tensor]:
    values = x.float().transpose(0, 1).flatten(1)
    return (values.mean(1) - running_mean).norm(), (values.var(1, unbiased=False) - running_var).norm()


def seconds_per_step(dreamer: Dreamer, queries: Tensor, deviation) -> float:
    with mock.patch.object(image_priors, "deviation", deviation):
        start = perf_counter()
        dreamer.dream(queries)
        return (perf_counter() - start) / STEPS


def main() -> None:
    config, processes = resolve(preset("voc")), Processes.join()
    device = processes.device
    model = Segmenter("resnet50")
    model.grow(range(5))
    model.to(device, memory_format=torch.channels_last)
    dreamer = Dreamer(model.frozen(), DreamOptions(steps=STEPS, coarse_share=0.0))
    queries = sample_layouts(DREAMS, SIZE, range(1, 5), 0).to(device)
    ours, plain = [], []
    with autocast(config, processes):
        for _ in range(ROUNDS):
            ours.append(seconds_per_step(dreamer, queries, image_priors.deviation))
            plain.append(seconds_per_step(dreamer, queries, plain_deviation))
    ratio = median(b / a for a, b in zip(ours, plain, strict=True))
    print(f"{device}, {config.train.precision}: {median(ours):.2f} s a step, with plain var {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
