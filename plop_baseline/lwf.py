"""LwF (Li and Hoiem, ECCV 2016): cross-entropy and distillation of the old logits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.losses import cross_entropy, upsample
from css.method.contract import Method
from css.model.segmenter import Segmenter
from tasks import Task


@dataclass(frozen=True)
class LwfOptions:
    """How much the old answers weigh."""

    kd_weight: float = 100.0
    """Weight of the distillation."""


class Lwf(Method):
    """As run for the tables of MiB and PLOP: `distillation` with their weight."""

    Options = LwfOptions
    summary = "cross-entropy and distillation of the old logits (ECCV 2016)"

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy, and the distillation of the old logits ("kd") over all pixels."""
        with torch.no_grad():
            old_logits = upsample(teacher(images).logits, labels)
        logits = upsample(forward(images).logits, labels)
        return {
            "ce": cross_entropy(logits, labels),
            "kd": self.options.kd_weight * distillation(logits, old_logits).mean(),
        }


def distillation(logits: Tensor, old_logits: Tensor, alpha: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy between the old model's soft-max and the new model's over the old channels. Map (B, H, W).

    logits (B, C, H, W) and old_logits (B, num_old, H, W) at the same size; the new soft-max is taken over the first
    num_old channels alone, so the new classes get no gradient. Only the old model is sharpened by alpha. Divided by
    num_old; 0 where the mask (B, H, W) is false. Source: LwF, Eq. 2, as in the official code of MiB and PLOP.
    """
    log_p = logits[:, : old_logits.shape[1]].log_softmax(dim=1)
    loss = -((alpha * old_logits).softmax(dim=1) * log_p).mean(dim=1)
    return loss if mask is None else loss * mask


def bce_distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Binary cross-entropy of each old channel to the old model's sigmoid, mean over the channels. Map (B, H, W).

    logits (B, C, H, W) and old_logits (B, num_old, H, W) at the same size. Source: iCaRL (Rebuffi et al., CVPR 2017),
    section 3.5, as in the official code of PLOP.
    """
    old_channels = logits[:, : old_logits.shape[1]]
    return F.binary_cross_entropy_with_logits(old_channels, old_logits.sigmoid(), reduction="none").mean(dim=1)
