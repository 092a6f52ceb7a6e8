"""Local POD loss, forward and backward, against a straightforward loop over regions, and against another build's.

    PYTHONPATH=. python benchmarks/local_pod.py [--old CHECKOUT]

All run alternately on the maps of one training step (bf16, channels last, as under autocast; the loop squares in
float32, as autocast does). Medians of seconds, on a CPU those of the process, and of the ratios to the loop; the error
of the loss against float64.
"""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import ModuleType

import torch
from torch import Tensor

from plop_baseline.pod import pod_loss

REPEATS = 9
NUM_OLD, NUM_NEW = 16, 1
Shapes = list[tuple[int, int]]  # channels and side of each map: four stages, decoder
Loss = Callable[[list[Tensor], list[Tensor], int, int], Tensor]
STEPS: dict[str, tuple[int, Shapes]] = {
    "ResNet-18 at 128 px, 8 images": (8, [(64, 32), (128, 16), (256, 8), (512, 8), (256, 8)]),
    "ResNet-50 at 96 px, 16 images": (16, [(256, 24), (512, 12), (1024, 6), (2048, 6), (256, 6)]),
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
        distance = (loop_embedding(old.float() ** 2) - loop_embedding(merged.float() ** 2)).norm(dim=1).mean()
        losses.append((5e-4 if is_logits else 0.01) * (num_seen / num_new) ** 0.5 * distance)
    return sum(losses) / len(losses)


def make_maps(images: int, shapes: Shapes, device: str) -> tuple[list[Tensor], list[Tensor]]:
    def noise(channels: int, side: int) -> Tensor:
        values = torch.randn(images, channels, side, side, device=device, dtype=torch.bfloat16)
        return values.contiguous(memory_format=torch.channels_last)

    side = shapes[-1][1]
    old = [noise(*shape) for shape in [*shapes, (NUM_OLD, side)]]
    return old, [noise(*shape).requires_grad_() for shape in [*shapes, (NUM_OLD + NUM_NEW, side)]]


def milliseconds(loss: Loss, old: list[Tensor], new: list[Tensor]) -> float:
    clock = perf_counter if old[0].is_cuda else process_time
    start = clock()
    torch.autograd.grad(loss(old, new, NUM_OLD + NUM_NEW, NUM_NEW), new)
    if old[0].is_cuda:
        torch.cuda.synchronize()
    return 1000 * (clock() - start)


def compare(name: str, losses: dict[str, Loss], old: list[Tensor], new: list[Tensor]) -> None:
    exact = pod_loss([x.double() for x in old], [x.double() for x in new], NUM_OLD + NUM_NEW, NUM_NEW).item()
    values = {key: loss(old, new, NUM_OLD + NUM_NEW, NUM_NEW).item() for key, loss in losses.items()}
    times = [{key: milliseconds(loss, old, new) for key, loss in losses.items()} for _ in range(REPEATS + 1)][1:]
    print(name)
    for key in losses:
        spent = sorted(row[key] for row in times)
        ratio = median(row["loop"] / row[key] for row in times)
        print(
            f"  {key:10} {median(spent):8.1f} ms ({spent[1]:.1f} to {spent[-2]:.1f})  {ratio:6.2f} times the loop's "
            f"speed, error {abs(values[key] / exact - 1):.0e}"
        )


def loss_of(checkout: Path) -> Loss:
    """The function of another build, whose file needs nothing that differs."""
    return module_of(checkout / "plop_baseline" / "pod.py").pod_loss


def module_of(path: Path) -> ModuleType:
    """A file of another build as a module; what it imports is this build's."""
    spec = importlib.util.spec_from_file_location(f"other_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="a checkout of the build to compare with")
    checkout = parser.parse_args().old
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    losses: dict[str, Loss] = {"loop": loop_loss} | ({"old": loss_of(checkout)} if checkout else {}) | {"new": pod_loss}
    print(f"{device}, {torch.get_num_threads()} threads, forward + backward, {REPEATS} alternating runs")
    for name, (images, shapes) in STEPS.items():
        compare(name, losses, *make_maps(images, shapes, device))


if __name__ == "__main__":
    main()
