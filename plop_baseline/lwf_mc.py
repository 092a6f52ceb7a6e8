"""LwF-MC (the multi-class LwF of Rebuffi et al., CVPR 2017): one binary problem per class, and distillation of each."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.losses import upsample
from css.method.contract import Method
from css.model.segmenter import Segmenter
from plop_baseline.lwf import bce_distillation
from tasks import Task
from tasks.source import VOID


@dataclass(frozen=True)
class LwfMcOptions:
    """How much the old answers weigh."""

    kd_weight: float = 10.0
    """Weight of the distillation, which is also multiplied by the number of old classes."""


class LwfMc(Method):
    """As run for PLOP's tables, which is not the loss of iCaRL.

    Old channels get the hard targets (zeros) *and* the soft ones. The first task is cross-entropy as for every method
    here, where the official code has the binary one.
    """

    Options = LwfMcOptions
    segmentation_only = True
    summary = "binary cross-entropy and distillation of the old sigmoids (CVPR 2017)"

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of every channel, and that to the old sigmoids ("kd")."""
        with torch.no_grad():
            old_logits = upsample(teacher(images).logits, labels)
        logits = upsample(forward(images).logits, labels)
        weight = self.options.kd_weight * len(task.old_classes)
        return {
            "bce": binary_cross_entropy(logits, labels).mean(),
            "kd": weight * bce_distillation(logits, old_logits).mean(),
        }


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over all channels of the binary cross-entropy to the one-hot target. Map (B, H, W), 0 at void pixels.

    logits (B, C, H, W) at label size, targets (B, H, W) with 255 for void; the background is a class like any other.
    Source: iCaRL (Rebuffi et al., CVPR 2017), section 3.5, without its distillation.
    """
    valid = targets != VOID
    one_hot = torch.zeros_like(logits).scatter_(1, (targets.long() * valid).unsqueeze(1), 1.0)
    return F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(dim=1) * valid
