"""Backward passes of dilated depthwise convolutions in bfloat16, channels last: PyTorch's and css.model.depthwise's.

    python benchmarks/depthwise.py

Layers of mobilenet_v2 and tu-tf_efficientnet_lite0 at 512 px (32 x 32 places), batch 2. Times are CPU times of one
thread (median); errors are those of the weight gradient, relative to that in fp32.
"""

import statistics
import time

import torch
from torch import nn

from css.model.depthwise import own_depthwise_gradients

BATCH, REPEATS = 2, 9
LAYERS = [(512, 3, 32), (576, 3, 32), (960, 3, 32), (1152, 5, 32), (960, 3, 16), (960, 3, 64)]  # channels, kernel, side


def main() -> None:
    """Prints one line per layer."""
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    print("channels kernel side   PyTorch ms  error     ours ms  error   times as fast")
    for channels, kernel, side in LAYERS:
        expected, _ = backward(channels, kernel, side, torch.float32, ours=False)
        lines = []
        for ours in (False, True):
            found, seconds = backward(channels, kernel, side, torch.bfloat16, ours)
            lines.append((1000 * seconds, ((found - expected).norm() / expected.norm()).item()))
        (theirs, wrong), (ours_ms, right) = lines
        print(
            f"{channels:8} {kernel:6} {side:4} {theirs:12.1f} {wrong:6.3f} {ours_ms:11.1f} {right:6.3f} "
            f"{theirs / ours_ms:15.1f}"
        )


def backward(channels: int, kernel: int, side: int, dtype: torch.dtype, ours: bool) -> tuple[torch.Tensor, float]:
    """The weight gradient in fp32 and the median CPU seconds of the backward pass; the first one does not count."""
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel - 1, dilation=2, groups=channels, bias=False)
    x, of_output = torch.randn(2, BATCH, channels, side, side)
    layer = layer.to(memory_format=torch.channels_last)
    if ours:
        own_depthwise_gradients(layer)
    x, of_output = (value.to(dtype).contiguous(memory_format=torch.channels_last).detach() for value in (x, of_output))
    x.requires_grad_()
    seconds = []
    for _ in range(REPEATS + 1):
        layer.weight.grad = x.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            output = layer(x)
        began = time.process_time()
        output.backward(of_output)
        seconds.append(time.process_time() - began)
    return layer.weight.grad, statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
