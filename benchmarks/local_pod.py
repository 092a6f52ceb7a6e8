"""Local POD loss, forward and backward, against a straightforward loop over regions.

    PYTHONPATH=. python benchmarks/local_pod.py

Both run alternately on the maps of one training step; the medians and the median of the ratios are printed.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from plop_baseline.pod import pod_loss

REPEATS = 7
NUM_OLD, NUM_NEW = 16, 1
Shapes = list[tuple[int, int]]  # channels and side of each map: four stages, decoder
STEPS: dict[str, tuple[int, Shapes]] = {
    "ResNet-18 at 128 px, 8 images": (8, [(64, 32), (128, 16), (256, 8), (512, 8), (256, 8)]),
    "ResNet-101 at 512 px, 1 image": (1, [(256, 128), (512, 64), (1024, 32), (2048, 32), (256, 32)]),
}


def loop_embedding(x: Tensor) -> Tensor:
    parts = []
    for s in (1, 2, 4):
        k = x.shape[3] // s
        for i in range(s):
            for j in range(s):
                region = x[:, :, i * k : (i + 1) * k, j * k : (j + 1) * k]
                parts += [region.mean(dim=3).flatten(1), region.mean(dim=2).flatten(1)]
    return torch.cat(parts, dim=1)


def loop_loss(old_maps: list[Tensor], new_maps: list[Tensor], num_seen: int, num_new: int) -> Tensor:
    losses = []
    for i, (old, new) in enumerate(zip(old_maps, new_maps, strict=True)):
        is_logits = i == len(old_maps) - 1
        if is_logits:
            background = new[:, :1] + new[:, old.shape[1] :].sum(dim=1, keepdim=True)
            merged = torch.cat([background, new[:, 1 : old.shape[1]]], dim=1)
        else:
            merged = new
        distance = (loop_embedding(old**2) - loop_embedding(merged**2)).norm(dim=1).mean()
        losses.append((5e-4 if is_logits else 0.01) * (num_seen / num_new) ** 0.5 * distance)
    return sum(losses) / len(losses)


def make_maps(images: int, shapes: Shapes, device: str) -> tuple[list[Tensor], list[Tensor]]:
    side = shapes[-1][1]
    old = [torch.randn(images, c, s, s, device=device) for c, s in [*shapes, (NUM_OLD, side)]]
    new = [torch.randn(images, c, s, s, device=device) for c, s in [*shapes, (NUM_OLD + NUM_NEW, side)]]
    return old, [x.requires_grad_() for x in new]


def milliseconds(step: Callable[[], None], device: str) -> float:
    start = perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (perf_counter() - start)


def compare(name: str, images: int, shapes: Shapes, device: str) -> None:
    old, new = make_maps(images, shapes, device)
    arguments = {"num_seen": NUM_OLD + NUM_NEW, "num_new": NUM_NEW}
    torch.testing.assert_close(
        pod_loss(old, new, **arguments), loop_loss(old, new, **arguments), rtol=1e-4, atol=0
    )  # also the warm-up

    def ours() -> None:
        torch.autograd.grad(pod_loss(old, new, **arguments), new)

    def loop() -> None:
        torch.autograd.grad(loop_loss(old, new, **arguments), new)

    for step in (ours, loop):
        step()
    times = [(milliseconds(ours, device), milliseconds(loop, device)) for _ in range(REPEATS)]
    ours_ms, loop_ms = (median(column) for column in zip(*times, strict=True))
    ratio = median(loop_time / ours_time for ours_time, loop_time in times)
    print(f"{name:32} pod_loss {ours_ms:8.1f} ms   loop {loop_ms:8.1f} ms   {ratio:5.2f} times as fast")


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{device}, {torch.get_num_threads()} threads, forward + backward, median of {REPEATS} alternating runs")
    for name, (images, shapes) in STEPS.items():
        compare(name, images, shapes, device)


if __name__ == "__main__":
    main()
