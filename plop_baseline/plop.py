"""PLOP (Douillard et al., CVPR 2021): local POD distillation and entropy pseudo-labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from css.config.settings import RunConfig
from css.losses import upsample
from css.method.contract import Method
from css.model.encoders import STRIDE
from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from plop_baseline.pod import SCALES, pod_loss
from plop_baseline.pseudo_labels import EntropyHistogram, pseudo_label, weighted_cross_entropy
from tasks import InputError, Task


@dataclass(frozen=True)
class PlopOptions:
    """Weights of local POD, and how pseudo-labels are chosen."""

    pod_factor: float = 0.01
    """Weight of local POD on the feature maps."""
    logits_factor: float = 5e-4
    """Weight of local POD on the low-resolution logits."""
    thresholds: Literal["official", "median"] = "official"
    """Entropy threshold per class: the arithmetic of the published code, or the median that the paper defines."""
    floor: float = 1e-3
    """No threshold is below this."""
    no_background_factor: float = 0.0
    """Weight of an image without a background pixel: 0 as published (its new classes are lost), 1 repairs that."""


class Plop(Method):
    """Cross-entropy to pseudo-labels, and local POD on every stage, on the features and on the logits."""

    Options = PlopOptions
    # A fused model is less sure of the background than a trained one, and less after every task. The published
    # arithmetic has the same threshold for it, about 0.005, whatever the model: it ends up accepting nothing.
    options_within: ClassVar[Mapping[str, Any]] = {"s2mf": PlopOptions(thresholds="median")}
    segmentation_only = True
    summary = "local POD distillation and entropy pseudo-labels (CVPR 2021)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError for crops whose last map is smaller than the finest grid of local POD."""
        if config.train.crop // STRIDE < max(SCALES):
            raise InputError(
                f"--train.crop {config.train.crop} is too small for plop: local POD divides the last map into "
                f"{max(SCALES)} x {max(SCALES)} regions, so it needs at least {max(SCALES) * STRIDE} pixels."
            )

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """One pass of the teacher over the training images gives the entropy threshold of every old class."""

        def measure() -> dict[str, torch.Tensor]:
            histogram = EntropyHistogram(len(task.old_classes), len(task.seen_classes), self.options.thresholds)
            for images, labels in trainer.passes(task, teacher, "thresholds"):
                with trainer.autocast():
                    logits = teacher(images).logits
                histogram.update(upsample(logits, labels), labels)
            histogram.counts = trainer.processes.sum(histogram.counts)
            return {"thresholds": histogram.thresholds(self.options.floor)}

        self.thresholds = trainer.once("thresholds", measure)["thresholds"]

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy to the pseudo-labels, weighted by image, and local POD ("pod")."""
        num_seen, num_new = len(task.seen_classes), len(task.new_classes)
        with torch.no_grad():
            old = teacher(images)
            targets, factor = pseudo_label(
                upsample(old.logits, labels), labels, self.thresholds.to(labels.device), num_seen,
                self.options.no_background_factor,
            )  # fmt: skip
        new = forward(images)
        pod = pod_loss(
            [*old.taps, old.features, old.logits], [*new.taps, new.features, new.logits], num_seen, num_new,
            self.options.pod_factor, self.options.logits_factor,
        )  # fmt: skip
        return {"ce": weighted_cross_entropy(upsample(new.logits, labels), targets, factor), "pod": pod}
