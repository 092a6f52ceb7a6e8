"""LGKD (Yang et al., ICCV 2023), label-guided distillation, with the selective rule of MBS (ECCV 2024)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.source import BACKGROUND, VOID


def guided_target(old_logits: Tensor, labels: Tensor, channels: int, alpha: float = 1.0) -> Tensor:
    """The old model's answer over all `channels`, (B, channels, H, W), sum 1.

    old_logits (B, N_old, H, W), sharpened by alpha; labels (B, H, W). What the old model calls background belongs to
    the labelled new class on its pixels, and to the background elsewhere (void too). Source: LGKD, Eq. 4 to 6.
    """
    known = old_logits.shape[1]
    target = F.pad((alpha * old_logits).softmax(1), (0, 0, 0, 0, 0, channels - known))
    is_new = ((labels >= known) & (labels != VOID)).unsqueeze(1)
    new_class = torch.where(is_new, labels.unsqueeze(1).long(), BACKGROUND)
    background = target[:, :1].clone()
    target[:, :1] = background.masked_fill(is_new, 0.0)
    return target.scatter_(1, new_class, background)


def label_guided_distillation(logits: Tensor, old_logits: Tensor, labels: Tensor, alpha: float = 1.0) -> Tensor:
    """Cross-entropy to `guided_target`. Map (B, H, W), divided by the number of all classes, as published.

    logits (B, C, H, W), old_logits (B, N_old, H, W) at the size of labels (B, H, W): 0, new classes, 255.
    """
    target = guided_target(old_logits, labels, logits.shape[1], alpha)
    return -(target * logits.log_softmax(1)).mean(1)


def confident_labels(old_logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Background pixels get the old class to which the old model gives at least `threshold`."""
    confidence, answer = old_logits.softmax(1).max(1)
    taken = (labels == BACKGROUND) & (answer != BACKGROUND) & (confidence >= threshold)
    return torch.where(taken, answer.to(labels.dtype), labels)


def selective_labels(old_logits: Tensor, labels: Tensor) -> Tensor:
    """Doubtful background, where the old classes have more than one half together, becomes void.

    labels with pseudo labels. Source: MBS, section 3.3.
    """
    doubtful = (labels == BACKGROUND) & (old_logits.softmax(1)[:, BACKGROUND] < 0.5)
    return labels.masked_fill(doubtful, VOID)


def background_scores(old_logits: Tensor, labels: Tensor) -> Tensor:
    """How much a place belongs to what the old model knows, (B, h, w).

    Its background probability on background, 1 on old classes, 0 on new classes and void. labels (B, h, w) after both
    rules.
    """
    known = old_logits.shape[1]
    background = old_logits.softmax(1)[:, BACKGROUND]
    old = ((labels > BACKGROUND) & (labels < known)).to(background)
    return torch.where(labels == BACKGROUND, background, old)


def scored_feature_distance(features: Tensor, old_features: Tensor, scores: Tensor) -> Tensor:
    """Sum of score * (f - f_old)^2 over D times the places with a score; 0 if there are none.

    features, old_features (B, D, h, w), scores (B, h, w). The official code divides 0 by 0 where no place has one.
    """
    squares = scores.unsqueeze(1) * (features - old_features).square()
    return squares.sum() / (features.shape[1] * (scores > 0).sum().clamp(min=1))
