"""Losses of STAR (Chen et al., NeurIPS 2023): binary classifiers of the new classes, with drawn old features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from plop_baseline.sigmoid_rows import hard_bce
from tasks.source import BACKGROUND


def old_answers(old_logits: Tensor, threshold: float = 0.0) -> Tensor:
    """What the old model sees, (B, H, W): the largest class above the threshold, else the background.

    old_logits (B, C_old, H, W), a row of zeros for the background. 0 is a probability of one half, as in testing; the
    released code takes logits above 0.5.
    """
    floor = torch.full_like(old_logits[:, :1], threshold)
    return torch.cat([floor, old_logits[:, 1:]], 1).argmax(1)


def new_class_loss(
    logits: Tensor, small_logits: Tensor, drawn_logits: Tensor, labels: Tensor, first: int, pos_weight: float,
    background: Tensor, ratio: float,
) -> dict[str, Tensor]:  # fmt: skip
    """What the rows of the new classes learn: "image", "fake", "background" (R,) and the weights of the last two.

    logits (B, R, H, W) of the channels from `first` on at the size of labels (B, H, W); small_logits (B, R, h, w);
    drawn_logits (N, R) of features drawn for the old classes; background (B, h, w): places that labels and old model
    call background; ratio: the weight of one. A term without a place is 0. Source: STAR, Eq. 6 to 8.
    """
    rows = small_logits.movedim(1, -1)[background]
    places = background.numel()
    return {
        "image": hard_bce(logits, labels, first, pos_weight),
        "fake": F.softplus(drawn_logits).sum(0) / max(1, len(drawn_logits)),
        "background": F.softplus(rows).sum(0) / max(1, len(rows)),
        "weight_fake": logits.new_tensor(len(drawn_logits) / places),
        "weight_background": logits.new_tensor(ratio * len(rows) / places),
    }


def weighted(terms: dict[str, Tensor]) -> Tensor:
    """The mean of the three terms with their weights (image: 1), summed over the rows."""
    fake, background = terms["weight_fake"], terms["weight_background"]
    together = terms["image"] + fake * terms["fake"] + background * terms["background"]
    return together.sum() / (1 + fake + background)


def old_places(labels: Tensor, answers: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """How much of every place is background by its label and an old class to the old model: (B, h, w), 0 to 1."""
    mask = (labels == BACKGROUND) & (answers != BACKGROUND)
    return F.interpolate(mask[:, None].float(), tuple(size), mode="bilinear", align_corners=False)[:, 0]


def masked_distance(features: Tensor, old_features: Tensor, mask: Tensor) -> Tensor:
    """Mean squared change of the features (B, D, h, w) over the places of the mask (B, h, w); 0 if there are none.

    Source: STAR, Eq. 9. The official code divides 0 by 0 where a batch has no old place.
    """
    squares = mask.unsqueeze(1) * (features - old_features).square()
    return squares.sum() / (features.shape[1] * mask.sum() + (mask.sum() == 0))


def contrast(features: Tensor, labels: Tensor, new: range, prototypes: Tensor) -> Tensor:
    """One over the distance of a new class to the nearest old one, mean over the new classes.

    A new class is the normalised mean of its directions in the batch, an old one its prototype (C, D).
    Source: STAR, Eq. 10.
    """
    targets = torch.stack([labels == channel for channel in new], 1).to(features.dtype)
    targets = F.interpolate(targets, features.shape[-2:], mode="bilinear", align_corners=False)
    directions = F.normalize(features, dim=1)
    centres = F.normalize(torch.einsum("bdhw,bchw->cd", directions, targets), dim=1)
    distances = (centres[:, None] - prototypes).norm(dim=2)
    if not len(prototypes):
        return distances.sum()  # 0: nothing to be near to
    return (1 / distances.min(1).values).mean()
