"""Cross-entropy with its gradient, and pseudo-labels, of two builds in turn in one process, on logits of noise.

    PYTHONPATH=.:benchmarks python benchmarks/pixel_losses.py CHECKOUT_OF_0.1

Logits in bf16, channels last, as a network gives them. Medians of CPU seconds; how many pseudo-labels differ.
"""

import math
import sys
import time
from pathlib import Path
from statistics import median

import torch
from local_pod import module_of

from css import losses
from plop_baseline import pseudo_labels

REPEATS = 7
SIZES = [(1, 512, 21), (16, 128, 17), (16, 96, 7)]  # images, side, channels


def main() -> None:
    checkout = Path(sys.argv[1])
    names = {"cross-entropy": (losses, "css/losses.py"), "labels": (pseudo_labels, "plop_baseline/pseudo_labels.py")}
    builds = {name: (module_of(checkout / path), new) for name, (new, path) in names.items()}
    torch.manual_seed(0)
    for images, side, channels in SIZES:
        logits = 3 * torch.randn(images, channels, side // 16, side // 16)
        logits = logits.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
        labels = torch.where(torch.rand(images, side, side) < 0.9, 0, channels - 1).byte()
        print(f"{images} images of {side} px, {channels} channels")
        compare("  cross-entropy", builds["cross-entropy"], cross_entropy, logits, labels)
        old, new = compare("  pseudo-labels", builds["labels"], labelled, logits, labels)
        print(f"  {(old != new).sum().item()} of {new.numel()} pseudo-labels differ")


def compare(name: str, builds: tuple, work, logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    rows = [[timed(work, build, logits, labels) for build in builds] for _ in range(REPEATS + 1)]
    old, new = (1000 * median(row[build][0] for row in rows[1:]) for build in (0, 1))
    ratio = median(row[0][0] / row[1][0] for row in rows[1:])
    print(f"{name} old {old:.1f} ms, new {new:.1f} ms, ratio {ratio:.2f}")
    return [found for _, found in rows[-1]]


def timed(work, build, logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    began = time.process_time()
    found = work(build, logits, labels)
    return time.process_time() - began, found


def cross_entropy(build, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(build.cross_entropy(logits, labels), logits)[0]


@torch.no_grad()
def labelled(build, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    num_seen = logits.shape[1] + 1
    thresholds = torch.full((num_seen,), 0.5 / (logits.shape[1] * math.log(num_seen)))
    return build.pseudo_label(losses.upsample(logits, labels), labels, thresholds, num_seen)[0]


if __name__ == "__main__":
    main()
