"""A training step of PLOP at the published size: images/s, memory, and the shares of teacher, local POD and projection.

    python benchmarks/published_step.py [--encoder resnet101] [--crop 512] [--batch 24] [--precision bf16]

DeepLabV3, 15 old classes and one new one, noise in memory, BatchNorm over the whole batch. Every variant of the step
takes its turn in each round; figures are medians over rounds, the first left out. The share of a part is the step with
it minus the step without it. Projection: every layer, half of its directions protected (what a sketch holds, at most).
"""

import argparse
import functools
import statistics
from pathlib import Path

import torch
from local_pod import Loss, loss_of
from nullspace import HALF, Batch, noise, timed

from css.config.settings import TrainConfig
from css.losses import cross_entropy, upsample
from css.model.segmenter import Segmenter
from css.nullspace import GradientStatistics, for_parameters, project_updates, projector
from css.system.peak_memory import peak_mb, reset_peak
from css.training.optimizer import make_optimizer
from plop_baseline.pod import pod_loss
from plop_baseline.pseudo_labels import pseudo_label, weighted_cross_entropy

OLD, NEW = 16, 1  # channels, background included
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    arguments = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    size = f"{arguments.crop} px, batch {arguments.batch}, {arguments.precision}"
    print(f"DeepLabV3 {arguments.encoder}, {size}, {where}")
    batch = noise(arguments.batch, arguments.crop, device)
    steps = Steps(arguments.encoder, device, DTYPES[arguments.precision], batch)
    variants = {
        "fine-tuning": steps.finetune,
        "with teacher": steps.teach,
        "with teacher and POD (PLOP)": steps.plop,
    }
    if arguments.old:
        variants["PLOP, the other build's POD"] = functools.partial(steps.plop, loss_of(arguments.old))
    variants["PLOP, projected"] = steps.project
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks = dict.fromkeys(variants, 0.0)
    for _ in range(arguments.rounds + 1):
        for name, step in variants.items():
            reset_peak(device)
            seconds[name].append(timed(step))
            peaks[name] = peak_mb(device)
    whole = statistics.median(seconds["PLOP, projected"][1:])
    before = 0.0
    for name, values in seconds.items():
        median = statistics.median(values[1:])
        share = (median - before) / whole
        rate = f"{1000 * median:8.1f} ms {arguments.batch / median:8.1f} images/s"
        print(f"{name:28} {rate} {peaks[name]:8.0f} MB {share:6.0%} of the whole")
        before = median


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet101")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--old", type=Path, help="a checkout of another build, whose local POD is measured, too")
    return parser.parse_args()


class Steps:
    """The variants of a step on one batch."""

    def __init__(self, encoder: str, device: torch.device, dtype: torch.dtype, batch: Batch) -> None:
        torch.manual_seed(0)
        model = Segmenter(encoder).to(device, memory_format=torch.channels_last)
        model.grow(range(OLD))
        self.teacher = model.frozen()
        model.grow([OLD])
        self.model, self.dtype = model.train(), dtype
        self.images, labels = batch
        self.labels = torch.where(labels < OLD, 0, OLD)  # most pixels are background, as in a task after the first
        self.thresholds = torch.full((OLD + NEW,), 0.5)
        self.plain = make_optimizer(TrainConfig(), model, 1e-6)
        self.projected = make_optimizer(TrainConfig(), model, 1e-6)
        gathered = GradientStatistics()
        few = [(self.images[:4], self.labels[:4])]
        gathered.collect(model, few, lambda model, images, labels: cross_entropy(model(images).logits, labels))
        project_updates(self.projected, for_parameters(model, projector(gathered, HALF)))

    def finetune(self) -> None:
        self._step(self.plain, lambda new: cross_entropy(new.logits, self.labels))

    def teach(self) -> None:
        self._step(self.plain, lambda new: self._taught(new)[0])

    def plop(self, pod: Loss = pod_loss) -> None:
        self._step(self.plain, lambda new: self._plop_loss(new, pod))

    def project(self) -> None:
        self._step(self.projected, self._plop_loss)

    def _step(self, optimizer: torch.optim.Optimizer, loss) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.images.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            value = loss(self.model(self.images))
        value.backward()
        optimizer.step()

    def _taught(self, new):
        """Cross-entropy to the teacher's pseudo labels, and the teacher's output."""
        with torch.no_grad():
            old = self.teacher(self.images)
            logits = upsample(old.logits, self.labels)
            targets, factor = pseudo_label(logits, self.labels, self.thresholds.to(logits.device), OLD + NEW, 0.0)
        return weighted_cross_entropy(upsample(new.logits, self.labels), targets, factor), old

    def _plop_loss(self, new, pod: Loss = pod_loss):
        loss, old = self._taught(new)
        maps = ([*model.taps, model.features, model.logits] for model in (old, new))
        return loss + pod(*maps, OLD + NEW, NEW, 0.01, 5e-4)


if __name__ == "__main__":
    main()
