"""The synthetic shapes with one object per image and its class as the label: a small classification data set."""

import hashlib
import json

import numpy as np

from tasks.datasets.image_labels import ImageLabels
from tasks.datasets.shapes import NUM_CLASSES, VERSION, class_names, render_single


class SingleShapes(ImageLabels):
    """20 classes in turn, so every class has images / 20. An image depends on (size, seed, split, index) alone.

    A split is rendered when it is first used and kept in memory; nothing is on disk.
    """

    name = "shapes-cls"

    def __init__(self, size: int = 32, train_images: int = 2000, test_images: int = 400, seed: int = 0) -> None:
        self.size, self.seed, counts = size, seed, {"train": train_images, "test": test_images}
        super().__init__({split: np.arange(n) % NUM_CLASSES + 1 for split, n in counts.items()}, class_names())
        self.class_names[0] = ""
        self._rendered: dict[str, np.ndarray] = {}

    def image(self, split: str, index: int) -> np.ndarray:
        """RGB image uint8 (size, size, 3), read-only."""
        if split not in self._rendered:
            labels = self.labels[split].tolist()
            images = [render_single(self.size, self.seed, split, i, label) for i, label in enumerate(labels)]
            self._rendered[split] = np.stack(images)
            self._rendered[split].setflags(write=False)
        return self._rendered[split][index]

    def fingerprint(self) -> str:
        """Hex SHA-256 of the generator's version, the parameters and the first images of both splits."""
        counts = {split: len(labels) for split, labels in self.labels.items()}
        digest = hashlib.sha256(json.dumps([VERSION, self.name, self.size, self.seed, counts]).encode())
        for split in counts:
            for index, label in enumerate(self.labels[split][:4].tolist()):
                digest.update(render_single(self.size, self.seed, split, index, label).tobytes())
        return digest.hexdigest()
