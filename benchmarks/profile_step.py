"""Where the time of a CPU training step goes, and what memory format and bf16 do to it.

    PYTHONPATH=. python benchmarks/profile_step.py

CPU times of one thread, so that other work on the machine disturbs them little.
"""

import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from css.model.segmenter import Segmenter

BATCH, CROP, REPEATS = 16, 96, 5


def main() -> None:
    torch.set_num_threads(1)
    model = Segmenter("resnet18").to(memory_format=torch.channels_last)
    model.grow(list(range(21)))
    images = torch.randn(BATCH, 3, CROP, CROP).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 21, (BATCH, CROP, CROP))

    def step(dtype: torch.dtype = torch.float32) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            logits = model(images).logits
        upsampled = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear")
        F.cross_entropy(upsampled, labels).backward()

    def evaluation() -> None:
        with torch.no_grad():
            model(images)

    training = seconds(step)
    model.eval()
    print(f"ResNet-18, {CROP} px: step / forward in evaluation = {training / seconds(evaluation):.1f}")
    model.train()
    print(f"bf16 autocast / fp32: {seconds(lambda: step(torch.bfloat16)) / training:.1f} times the time of a step")
    shares(step)
    for name, layer, shape in [
        ("stage 1, 3x3", nn.Conv2d(64, 64, 3, padding=1, bias=False), (BATCH, 64, 24, 24)),
        ("stage 2, 3x3", nn.Conv2d(128, 128, 3, padding=1, bias=False), (BATCH, 128, 12, 12)),
        ("stage 4, 3x3 dilated", nn.Conv2d(512, 512, 3, padding=2, dilation=2, bias=False), (BATCH, 512, 6, 6)),
    ]:
        rows = [formats(layer, shape, *chosen) for chosen in ((True, True), (False, True), (False, False))]
        print(
            f"{name:22} forward + backward, ms: channels_last {rows[0]}, only activations {rows[1]}, neither {rows[2]}"
        )


def shares(step) -> None:
    """Prints the operators that take most of a step."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(
        ", ".join(f"{event.key.removeprefix('aten::')} {event.self_cpu_time_total / total:.0%}" for event in events[:9])
    )


def formats(layer: nn.Conv2d, shape: tuple[int, ...], weights_last: bool, activations_last: bool) -> str:
    """Milliseconds of the forward and of the backward pass of one layer."""
    layer = layer.to(memory_format=torch.channels_last if weights_last else torch.contiguous_format)
    x = torch.randn(shape)
    x = (x.contiguous(memory_format=torch.channels_last) if activations_last else x).requires_grad_()
    forward = seconds(lambda: layer(x))
    both = seconds(lambda: layer(x).sum().backward())
    return f"{1000 * forward:.0f} + {1000 * (both - forward):.0f}"


def seconds(work) -> float:
    """Median CPU time; the first call does not count."""
    durations = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        work()
        durations.append(time.process_time() - began)
    return statistics.median(durations[1:])


if __name__ == "__main__":
    main()
