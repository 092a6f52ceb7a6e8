"""SSUL (Cha et al., NeurIPS 2021) without its unknown class: frozen features and a private head for every task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from css.config.options import require_values
from css.config.settings import RunConfig
from css.losses import upsample
from css.method.contract import Method
from css.model.segmenter import Segmenter
from css.model.state import linear_classifiers
from css.training.trainer import Trainer
from plop_baseline.private_heads import PrivateBodies, all_rows_bce, sure_labels
from plop_baseline.sigmoid_rows import subtract_background
from tasks import Task


@dataclass(frozen=True)
class SsulOptions:
    """The pseudo labels."""

    threshold: float = 0.7
    """Background pixels are taken as the old class with at least this probability."""


class Ssul(Method):
    """Only the newest head learns: a 3x3 convolution on the maps of the ASPP and the rows of the new classes.

    The published method has an unknown class, too: background that a saliency map, made by another network, calls an
    object. Without such maps this is its ablation; a new head starts as a copy of the first one's body, where the
    published one copies the unknown class.
    """

    Options = SsulOptions
    segmentation_only = True
    linear, own_head = False, True
    summary = "frozen features, a private 3x3 head per task, pseudo labels; without saliency maps (NeurIPS 2021)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a threshold that is no probability."""
        require_values(self.options, self.flag, {"threshold": (0 <= self.options.threshold <= 1, "from 0 to 1")})

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """The body of a new head is a copy of the first task's."""
        model.grow(new_classes, init="random")
        if len(model.classifiers) == 1:
            model.head = PrivateBodies()
        else:
            cast("PrivateBodies", model.head).grow(model.decoder)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Fits the newest head alone; BatchNorm stays as it is, the new head's too."""
        model.requires_grad_(False)
        model.classifiers[-1].requires_grad_(True)
        cast("PrivateBodies", model.head).bodies[-1].requires_grad_(True)
        try:
            trainer.fit(model, task, self.objective(task, model, teacher, trainer), batch_norm="freeze")
        finally:
            model.requires_grad_(True)

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Old classifiers become binary ones; the background is what none of them is."""
        subtract_background(linear_classifiers(teacher))
        subtract_background(linear_classifiers(model)[:-1])

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of all rows to the labels and what the old model is sure of ("bce")."""
        with torch.no_grad():
            old_logits = upsample(teacher(images).logits, labels)
        targets = sure_labels(old_logits, labels, self.options.threshold)
        return {"bce": all_rows_bce(upsample(forward(images).logits, labels), targets)}
