"""What a data set must offer so that a stream of tasks can be cut from it."""

from typing import Protocol

import numpy as np

VOID = 255
BACKGROUND = 0


class Source(Protocol):
    """Images with one mask each, in two splits, "train" and "test".

    Mask values are raw class ids: 0 is the background, 255 (void) is ignored everywhere. A source may have a `palette`,
    uint8 (256, 3): its colours in predicted masks and dreams, by raw class id.
    """

    name: str
    class_names: list[str]  # position = raw class id; the first is "background"

    def presence(self, split: str) -> np.ndarray:
        """bool (images, 256): which values occur in the mask of each image of the split."""

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and mask uint8 (H, W) of raw class ids."""

    def image_id(self, split: str, index: int) -> str:
        """A name for pictures, unique within the split."""

    def fingerprint(self) -> str:
        """Hex digest that changes when the data changes."""
