"""Backward passes of dilated convolutions on small maps, with and without the taps that see only padding.

    python benchmarks/dilated_convolution.py

First single ASPP branches of ResNet-18 (512 to 256 channels), then whole training steps of DeepLabV3-ResNet-18. Times
are CPU times of one thread (median), so that other work on the machine disturbs them little.
"""

import functools
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from css.model.dilation import SparseTapConv2d, skip_taps_in_padding
from css.model.segmenter import Segmenter

BATCH, REPEATS = 16, 7


def main() -> None:
    torch.set_num_threads(1)
    print("one branch, ms:        plain fwd  plain bwd   ours fwd   ours bwd")
    for crop, dilation in [(96, 6), (96, 18), (128, 6), (128, 12), (128, 18)]:
        side = crop // 16
        x = torch.randn(BATCH, 512, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
        times = []
        for ours in (False, True):
            layer = nn.Conv2d(512, 256, 3, padding=dilation, dilation=dilation, bias=False)
            layer = layer.to(memory_format=torch.channels_last)
            if ours:
                skip_taps_in_padding(layer)
            times += forward_and_backward(lambda layer=layer, x=x: layer(x).sum())
        print(f"{crop} px, dilation {dilation:2}:    " + "  ".join(f"{1000 * t:9.1f}" for t in times))
    for crop in (96, 128):
        images = torch.randn(BATCH, 3, crop, crop).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 21, (BATCH, crop, crop))
        results = {}
        for name in ("plain", "ours"):
            model = Segmenter("resnet18").to(memory_format=torch.channels_last)
            model.grow(list(range(21)))
            if name == "plain":
                for module in model.modules():
                    if isinstance(module, SparseTapConv2d):
                        module.__class__ = nn.Conv2d
            results[name] = forward_and_backward(functools.partial(loss, model, images, labels))
        (plain_fwd, plain_bwd), (ours_fwd, ours_bwd) = results["plain"], results["ours"]
        print(
            f"ResNet-18 step at {crop} px: backward/forward {plain_bwd / plain_fwd:.2f} plain, "
            f"{ours_bwd / ours_fwd:.2f} ours; step {(plain_fwd + plain_bwd) / (ours_fwd + ours_bwd):.2f} times as fast"
        )


def loss(model: Segmenter, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.interpolate(model(images).logits, size=labels.shape[1:]), labels)


def forward_and_backward(compute) -> tuple[float, float]:
    """Median CPU seconds of calling `compute` and of its backward pass; the first call does not count."""
    forward, backward = [], []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        value = compute()
        middle = time.process_time()
        value.backward()
        forward.append(middle - began)
        backward.append(time.process_time() - middle)
    return statistics.median(forward[1:]), statistics.median(backward[1:])


if __name__ == "__main__":
    main()
