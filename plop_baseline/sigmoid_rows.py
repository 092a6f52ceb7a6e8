"""What methods with one sigmoid per class share (DKD, STAR): each row of the classifiers says "my class" or "not".

The background has no classifier of its own: a pixel is background unless some class has more than one half. That is the
arg-max over [0, z_1, ..., z_C], so the background's row is one of zeros that no loss touches. Logits of all channels
are then read as those of soft-max methods are, in evaluation and by every wrapper.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.model.state import bias_of


@torch.no_grad()
def subtract_background(classifiers: Sequence[nn.Conv2d]) -> None:
    """Makes the background's row zero by taking it from every row, weight and bias, in place.

    Soft-max and arg-max stay what they were. classifiers: one 1x1 convolution per task, the background first.
    """
    weight, bias = classifiers[0].weight[:1].clone(), bias_of(classifiers[0])[:1].clone()
    for classifier in classifiers:
        classifier.weight.sub_(weight)
        bias_of(classifier).sub_(bias)


@torch.no_grad()
def clear_background(classifier: nn.Conv2d) -> None:
    """Makes the background's row zero, in place: for a first task learnt with binary classifiers."""
    classifier.weight[:1].zero_()
    bias_of(classifier)[:1].zero_()


def hard_bce(logits: Tensor, labels: Tensor, first: int, pos_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy of every row to [label = its channel]: mean over all pixels, (R,).

    logits (B, R, H, W) of the channels first, first + 1, ..., at the size of labels (B, H, W). A pixel of any other
    label is a negative, void too (as in the official code of DKD and STAR); positives count pos_weight times.
    """
    channels = torch.arange(first, first + logits.shape[1], device=labels.device)
    positive = labels.unsqueeze(1) == channels[:, None, None]
    loss = positive * pos_weight * F.softplus(-logits) + ~positive * F.softplus(logits)
    return loss.mean((0, 2, 3))


def soft_bce(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Binary cross-entropy of every row to the old model's sigmoid: mean over all places, (R,).

    logits and old_logits (B, R, h, w).
    """
    return F.binary_cross_entropy_with_logits(logits, old_logits.sigmoid(), reduction="none").mean((0, 2, 3))
