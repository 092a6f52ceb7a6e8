"""Losses of DKD (Baek et al., NeurIPS 2022): binary classifiers, distilled as a whole and in two parts."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from plop_baseline.sigmoid_rows import hard_bce, soft_bce


class Rows(NamedTuple):
    """Linear classifiers: weight (R, D), bias (R,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Of feature maps (B, D, h, w): (B, R, h, w)."""
        return F.conv2d(features, self.weight[:, :, None, None], self.bias)

    def positive(self, features: Tensor) -> Tensor:
        """What the positive weights say; without the bias, as published."""
        return F.conv2d(features, self.weight.clamp(min=0)[:, :, None, None])

    def negative(self, features: Tensor) -> Tensor:
        """What the negative weights say; without the bias."""
        return F.conv2d(features, self.weight.clamp(max=0)[:, :, None, None])


def decomposed_distillation(
    features: Tensor, old_features: Tensor, rows: Rows, old_rows: Rows
) -> tuple[Tensor, Tensor]:
    """What speaks for an old class and what speaks against it are distilled apart: mean over places, (R,) each.

    features and old_features (B, D, h, w); rows and old_rows are those of the old classes, now and in the old model.
    Source: DKD, section 3.2.
    """
    return (
        soft_bce(rows.positive(features), old_rows.positive(old_features)),
        soft_bce(rows.negative(features), old_rows.negative(old_features)),
    )


def dkd_terms(
    features: Tensor, old_features: Tensor, logits: Tensor, old_logits: Tensor, labels: Tensor, rows: Rows,
    old_rows: Rows, pos_weight: float,
) -> dict[str, Tensor]:  # fmt: skip
    """The terms mbce (N_new,), kd, pos, neg (N_old,), one number a row; DKD sums them over the rows.

    logits (B, N_old + N_new, H, W) of all classes without the background, old_logits (B, N_old, H, W), both at the size
    of labels (B, H, W), which hold 0, new classes and 255; void is a negative of the new classes. rows and old_rows as
    in `decomposed_distillation`. Source: DKD, section 3.2, with the official code's reductions.
    """
    known = old_logits.shape[1]
    pos, neg = decomposed_distillation(features, old_features, rows, old_rows)
    return {
        "mbce": hard_bce(logits[:, known:], labels, known + 1, pos_weight),
        "kd": soft_bce(logits[:, :known], old_logits),
        "pos": pos,
        "neg": neg,
    }


def auxiliary_loss(logits: Tensor) -> Tensor:
    """Binary cross-entropy of the auxiliary row to 0 everywhere, mean over pixels: it learns "none of what is seen".

    logits (B, 1, H, W), of features that get no gradient. Source: DKD, section 3.3.
    """
    return F.softplus(logits).mean()
