"""Data sets with one label per image: the label is a mask of one pixel, and all else is as in segmentation."""

from collections.abc import Mapping

import numpy as np

from tasks.source import VOID


class ImageLabels:
    """A `tasks.source.Source` without a background: raw class ids count from 1, and `class_names[0]` names nothing.

    A data set is a subclass that says how an image is read and what its fingerprint is.

    Args:
        labels: raw class id of every image of the splits "train" and "test", integers (images,).
        class_names: by raw class id, at most 254 beside the first.
    """

    name: str

    def __init__(self, labels: Mapping[str, np.ndarray], class_names: list[str]) -> None:
        if len(class_names) > VOID:
            raise ValueError(f"{len(class_names) - 1} classes do not fit into 8 bits beside void")
        self.class_names = class_names
        self.labels = {split: np.asarray(values, np.uint8) for split, values in labels.items()}

    def presence(self, split: str) -> np.ndarray:
        """bool (images, 256): the label of each image of the split."""
        return np.eye(256, dtype=bool)[self.labels[split]]

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and its label as a mask, uint8 (1, 1)."""
        return self.image(split, index), self.labels[split][index].reshape(1, 1)

    def image_id(self, split: str, index: int) -> str:
        """Unique within the split, for instance "train_00042"."""
        return f"{split}_{index:05d}"

    def image(self, split: str, index: int) -> np.ndarray:
        """RGB image uint8 (H, W, 3)."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hex digest that changes when the data changes."""
        raise NotImplementedError
