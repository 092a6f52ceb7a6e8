"""What null-space projection costs: a projected step, collecting statistics, and their memory and decomposition.

    python benchmarks/nullspace.py [--encoder resnet50] [--crop 128] [--batch 16]

Step and statistics are compared with a plain step and a plain forward-backward pass of the same network on the same
batches of noise, in turns within one process; figures are medians and their ratio. On a CPU they are CPU seconds, so
that what else runs there does not count. The step is measured with the default rule and at its most expensive: half of
all directions protected, and every direction that a sketch holds. Memory and decomposition are those of
`--memory-encoder`, against a dense float32 matrix per layer, whose size is computed and of which one layer, the widest
of the encoder, is decomposed for comparison.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from css.config.settings import TrainConfig
from css.losses import cross_entropy
from css.model.segmenter import Segmenter
from css.nullspace import GradientStatistics, Rule, for_parameters, project_updates, projector
from css.nullspace.gram import Gram, Sketch
from css.nullspace.layers import groups_of, input_width, layers_of
from css.training.optimizer import make_optimizer

CLASSES = 21
HALF = Rule("fraction", 0.5)
MIB = 2**20
Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    arguments = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"DeepLabV3 {arguments.encoder}, {arguments.crop} px, batch {arguments.batch}, {where}")
    model = network(arguments.encoder, device)
    batches = [noise(arguments.batch, arguments.crop, device) for _ in range(arguments.rounds + 1)]
    gathered = compare_collecting(model, batches)
    for rule in (Rule(), HALF):
        compare_steps(model, batches, gathered, rule)
    del model, gathered
    print(f"\nDeepLabV3 {arguments.memory_encoder}, all layers")
    compare_memory(network(arguments.memory_encoder, device), [noise(2, arguments.crop, device) for _ in range(2)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--memory-encoder", default="resnet101")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def network(encoder: str, device: torch.device) -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter(encoder)
    model.grow(range(CLASSES))
    return model.to(device, memory_format=torch.channels_last)


def noise(batch: int, crop: int, device: torch.device) -> Batch:
    """A normalised batch of noise and its labels."""
    images = torch.randn(batch, 3, crop, crop, device=device).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(CLASSES, (batch, crop, crop), device=device)


def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(images).logits, labels)


def compare_collecting(model: Segmenter, batches: list[Batch]) -> GradientStatistics:
    gathered = GradientStatistics()

    def plain(batch: Batch) -> None:
        model.eval().zero_grad(set_to_none=True)
        loss(model, *batch).backward()

    def collect(batch: Batch) -> None:
        gathered.collect(model, [batch], loss)

    in_turns({"forward-backward": plain, "collecting": collect}, batches)
    return gathered


def compare_steps(model: Segmenter, batches: list[Batch], gathered: GradientStatistics, rule: Rule) -> None:
    model.train()
    projected = for_parameters(model, projector(gathered, rule))
    print(f"{rule.kind} {rule.value}: {len(projected)} layers")
    optimizers = {name: make_optimizer(TrainConfig(), model, 1e-4) for name in ("plain step", "projected step")}
    project_updates(optimizers["projected step"], projected)

    def step(batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model, *batch).backward()
        optimizer.step()

    in_turns({name: functools.partial(step, optimizer=it) for name, it in optimizers.items()}, batches)


def in_turns(what: dict[str, Callable[[Batch], None]], batches: list[Batch]) -> None:
    """Prints the median seconds of each, and of the ratio of the second to the first; the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for batch in batches:
        for name, work in what.items():
            seconds[name].append(timed(lambda work=work, batch=batch: work(batch)))
    for name, values in seconds.items():
        print(f"{name:18} {statistics.median(values[1:]):8.3f} s   ({', '.join(f'{v:.3f}' for v in values[1:])})")
    (first, before), (second, after) = seconds.items()
    ratios = [b / a for a, b in zip(before[1:], after[1:], strict=True)]
    print(f"{second} / {first}: {statistics.median(ratios):.3f}   ({', '.join(f'{r:.3f}' for r in ratios)})")


def timed(work: Callable[[], object]) -> float:
    if not torch.cuda.is_available():
        began = time.process_time()
        work()
        return time.process_time() - began
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def compare_memory(model: Segmenter, batches: list[Batch]) -> None:
    gathered = GradientStatistics()
    gathered.collect(model, batches, loss)
    layers, grams = layers_of(model), [gram for grams in gathered.grams.values() for gram in grams]
    dense = sum(groups_of(layer) * input_width(layer) ** 2 * 4 for layer in layers.values())
    exact = sum(gram.bytes for gram in grams if isinstance(gram, Gram))
    full = sum(4 * gram.width * gram.size for gram in grams if isinstance(gram, Sketch))
    print(f"dense        {dense / MIB:7.0f} MiB   float32 matrices of every layer")
    print(f"statistics   {(exact + full) / MIB:7.0f} MiB   with all sketches full")
    print(f"             {(exact + 2 * full) / MIB:7.0f} MiB   at most, while collecting")
    decomposed = max(gram.width if isinstance(gram, Gram) else 2 * gram.size for gram in grams)
    seconds = timed(lambda: projector(gathered, HALF))
    print(f"projectors   {seconds:7.1f} s     of {len(gathered.grams)} layers, none decomposed wider than {decomposed}")
    width = max(input_width(layer) for name, layer in layers.items() if name.startswith("encoder"))
    rows = torch.randn(width, width, device=batches[0][0].device, dtype=torch.float64)
    seconds = timed(lambda: torch.linalg.eigh(rows @ rows.T))
    print(f"dense eigh   {seconds:7.1f} s     of one layer {width} wide")


if __name__ == "__main__":
    main()
