"""MiB (Cermelli et al., CVPR 2020): cross-entropy and distillation that know what the background stands for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.losses import upsample
from css.method.contract import Method
from css.model.segmenter import Segmenter
from tasks import Task
from tasks.source import VOID


@dataclass(frozen=True)
class MibOptions:
    """How much the old answers weigh."""

    kd_weight: float = 10.0
    """Weight of the unbiased distillation; the published runs on VOC 15-1 used 100."""
    alpha: float = 1.0
    """The old model's logits are multiplied by this before its soft-max."""


class Mib(Method):
    """Both losses take into account that the background of one task holds the classes of the others."""

    Options = MibOptions
    options_within: ClassVar[Mapping[str, Any]] = {"lgkd": MibOptions(kd_weight=0.0)}
    segmentation_only = True
    summary = "unbiased cross-entropy and unbiased distillation (CVPR 2020)"

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Unbiased cross-entropy (Eq. 5) and unbiased distillation ("kd", Eq. 8), means over all pixels."""
        with torch.no_grad():
            old_logits = upsample(teacher(images).logits, labels)
        logits = upsample(forward(images).logits, labels)
        return {
            "ce": unbiased_cross_entropy(logits, labels, len(task.old_classes)).mean(),
            "kd": self.options.kd_weight * unbiased_distillation(logits, old_logits, self.options.alpha).mean(),
        }


def unbiased_cross_entropy(logits: Tensor, targets: Tensor, num_old: int, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy in which a background label means "background or any old class". Map (B, H, W), 0 at void pixels.

    logits (B, C, H, W) of the new model at label size, targets (B, H, W) with 255 for void. Channels below `num_old`
    (background and old classes) share one probability, and every target below `num_old` asks for it. Where the
    boolean mask (B, H, W) is true, a pixel is taken as void. The mean of the map, void pixels in the denominator, is
    the published loss. Source: MiB, Eq. 5 and 6.
    """
    log_p = logits.log_softmax(dim=1)
    log_p = torch.cat([log_p[:, :num_old].logsumexp(dim=1, keepdim=True), log_p[:, num_old:]], dim=1)
    targets = targets.long()
    void = targets == VOID if mask is None else (targets == VOID) | mask
    merged = (targets - (num_old - 1)).clamp(min=0).masked_fill(void, VOID)
    return F.nll_loss(log_p, merged, ignore_index=VOID, reduction="none")


def unbiased_distillation(logits: Tensor, old_logits: Tensor, alpha: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Distillation in which the old background stands for "background or any new class". Map (B, H, W).

    logits (B, C, H, W) and old_logits (B, num_old, H, W) at the same size. The cross-entropy between the old model's
    soft-max of alpha * old_logits and the new model's probabilities, divided by num_old; only the old model is
    sharpened by alpha. The map is 0 where the mask (B, H, W) is false. Source: MiB, Eq. 8 and 9, with the division of
    the official code.
    """
    num_old = old_logits.shape[1]
    log_p = logits.log_softmax(dim=1)
    background = torch.cat([log_p[:, :1], log_p[:, num_old:]], dim=1).logsumexp(dim=1, keepdim=True)
    log_p = torch.cat([background, log_p[:, 1:num_old]], dim=1)
    loss = -((alpha * old_logits).softmax(dim=1) * log_p).mean(dim=1)
    return loss if mask is None else loss * mask
