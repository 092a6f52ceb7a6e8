"""Scores of a segmentation stream: confusion matrix, IoU, means over old and new classes, accuracy over tasks."""

import torch
from torch import Tensor

from css.summaries import average_over_tasks, continual_accuracy

__all__ = ["ConfusionMatrix", "average_over_tasks", "continual_accuracy", "group_means"]

EPSILON = 1e-6  # in the denominators of the published scores


class ConfusionMatrix:
    """Pixel counts of one evaluation: int64 `matrix` (num_classes, num_classes), rows ground truth, columns prediction.

    Matrices of several processes are summed with `+`, or with all_reduce on `matrix`.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count pixels. pred, target: integer tensors of one shape; targets >= num_classes (void 255 too) are left out.

        Raises ValueError for another shape or for a predicted class outside 0..num_classes-1.
        """
        if pred.shape != target.shape:
            raise ValueError(f"Prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape.")
        counted = target < self.num_classes
        pred, target = pred[counted].long(), target[counted].long()
        if not torch.all((pred >= 0) & (pred < self.num_classes)):
            raise ValueError(f"A predicted class lies outside 0..{self.num_classes - 1}.")
        cells = torch.bincount(target * self.num_classes + pred, minlength=self.num_classes**2)
        self.matrix += cells.view_as(self.matrix).to(self.matrix.device)

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        total = ConfusionMatrix(self.num_classes, self.matrix.device)
        total.matrix = self.matrix + other.matrix
        return total

    def iou(self) -> Tensor:
        """float64 (num_classes,): hits / (ground truth + predicted - hits + 1e-6); NaN for a class without truth."""
        hits, truth, predicted = self._sums()
        return _nan_if_absent(hits / (truth + predicted - hits + EPSILON), truth)

    def accuracy(self) -> Tensor:
        """float64 (num_classes,): hits / (ground truth + 1e-6); NaN for a class without truth."""
        hits, truth, _ = self._sums()
        return _nan_if_absent(hits / (truth + EPSILON), truth)

    def summary(self) -> dict[str, float | None]:
        """Scores over all classes as fractions; None if nothing was counted. Means leave absent classes out."""
        hits, truth, _ = self._sums()
        pixels = truth.sum()
        counted = bool(pixels > 0)
        return {
            "mean_iou": _mean(self.iou()),
            "mean_accuracy": _mean(self.accuracy()),
            "overall_accuracy": (hits.sum() / pixels).item() if counted else None,
            "frequency_weighted_iou": (truth / pixels * self.iou()).nansum().item() if counted else None,
        }

    def groups(self, num_first: int) -> dict[str, float | None]:
        """Mean IoU of the groups of classes, see `group_means`."""
        return group_means(self.iou(), num_first)

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per class, float64: correct pixels, pixels of the ground truth, predicted pixels."""
        matrix = self.matrix.cpu().double()
        return matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)


def group_means(iou: Tensor, num_first: int) -> dict[str, float | None]:
    """Mean of float (C,) IoUs over the groups of classes that tables report, with and without the background.

    num_first: number of classes of the first task, background included. Keys: old (classes 0..num_first-1), old_no_bg,
    new (num_first..C-1), all, all_no_bg, harmonic (harmonic mean of old and new). Classes without ground truth (NaN)
    are left out of the means (PLOP's averaging script counts them in the divisor); an empty group is None.
    """
    old, new = _mean(iou[:num_first]), _mean(iou[num_first:])
    return {
        "old": old,
        "old_no_bg": _mean(iou[1:num_first]),
        "new": new,
        "all": _mean(iou),
        "all_no_bg": _mean(iou[1:]),
        "harmonic": _harmonic_mean(old, new),
    }


def _nan_if_absent(scores: Tensor, truth: Tensor) -> Tensor:
    return scores.masked_fill(truth == 0, torch.nan)


def _mean(scores: Tensor) -> float | None:
    return None if scores.isnan().all() else scores.nanmean().item()


def _harmonic_mean(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b > 0 else 0.0
