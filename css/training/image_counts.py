"""Right and wrong pixels of single test images, to choose those that are shown."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ImageCounts:
    """Per image and class the correct, the true and the predicted pixels: `counts`, int64 (images, 3, classes)."""

    def __init__(self, images: int, classes: int) -> None:
        self.counts = torch.zeros(images, 3, classes, dtype=torch.int64)

    def update(self, positions: Sequence[int], pred: Tensor, target: Tensor) -> None:
        """Counts the pixels of images.

        Args:
            positions: Places of the images among all test images, one for each of the batch.
            pred: Channels, integers (B, H, W).
            target: The truth, of the same shape; what is no channel (void) is left out.
        """
        classes = self.counts.shape[2]
        for position, answer, label in zip(positions, pred, target, strict=True):
            kept = label < classes
            found, true = answer[kept].long(), label[kept].long()
            for row, chosen in enumerate((true[found == true], true, found)):
                self.counts[position, row] += torch.bincount(chosen, minlength=classes)

    def iou(self) -> Tensor:
        """float64 (images, classes): IoU within each image, NaN where the class is not in the truth."""
        hits, truth, predicted = self.counts.double().unbind(1)
        return (hits / (truth + predicted - hits)).masked_fill(truth == 0, torch.nan)

    def missed(self) -> Tensor:
        """int64 (images, classes): pixels of the truth that are called another class."""
        return self.counts[:, 1] - self.counts[:, 0]

    def counted(self) -> Tensor:
        """int64 (images,): pixels that have a ground truth."""
        return self.counts[:, 1].sum(1)
