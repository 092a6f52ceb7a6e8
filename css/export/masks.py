"""What an export costs in mIoU, on photographs whose masks the user has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from css.metrics import ConfusionMatrix
from css.predict.inputs import Item
from css.predict.network import Network
from css.predict.view import View, segment
from tasks import InputError
from tasks.reading import open_mask
from tasks.source import VOID

MOST = 0.5  # points of mIoU that an export may lose


@dataclass(frozen=True)
class Masked:
    """Photographs uint8 (H, W, 3) and their masks of raw class ids, uint8 (H, W)."""

    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray]

    def mean_iou(self, network: Network) -> float:
        """mIoU in % of a network that sees the photographs at its own size, as in `css predict`.

        Means over the classes that the masks show; ids that are none of the network's are left out, as void is. Raises
        InputError if nothing is left.
        """
        channel = np.full(256, VOID, np.uint8)
        channel[network.classes] = np.arange(len(network.classes))
        confusion = ConfusionMatrix(len(network.classes))
        for image, mask in zip(self.images, self.masks, strict=True):
            found = segment(network, image, View(network.size))[0]
            confusion.update(torch.from_numpy(channel[found]), torch.from_numpy(channel[mask]))
        mean = confusion.summary()["mean_iou"]
        if mean is None:
            raise InputError("--masks: no pixel is of a class that the model knows; give masks of class ids.")
        return 100 * mean


def read_masks(folder: Path, items: Sequence[Item], images: Sequence[np.ndarray]) -> Masked:
    """The masks of images: PNG files of their names. Raises InputError for one that is missing, or of another size."""
    masks = [np.array(open_mask(folder / f"{item.stem}.png")) for item in items]
    for item, image, mask in zip(items, images, masks, strict=True):
        if image.shape[:2] != mask.shape:
            raise InputError(f"--masks: {folder / item.stem}.png and {item.source} differ in size.")
    return Masked(images, masks)


def require_quality(ours: float, theirs: dict[str, float], name: str) -> None:
    """Raises InputError with the numbers if one of the precisions loses too much mIoU (%)."""
    for precision, found in theirs.items():
        if not ours - found <= MOST:
            raise InputError(
                f"{name} is not exported: its mIoU on the masks is {found:.2f} % in {precision} where the model has "
                f"{ours:.2f} % (at most {MOST:g} points may be lost); calibrate with other images, or more of them, "
                "or leave --int8 out."
            )
