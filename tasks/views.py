"""Views of images and their masks, for training and for testing."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else every import asks the package index for a newer version

import albumentations as A
import cv2
import numpy as np

from tasks.source import VOID

# Shrinking with the area filter: plain bilinear sampling aliases, and small crops of large photographs are the rule on
# a CPU. Enlarging stays bilinear, as published. Masks are sampled where image filters are centred: at the centre of
# each new pixel, as Pillow does in the published code. OpenCV's plain INTER_NEAREST samples at its corner.
_RESAMPLING = {
    "interpolation": cv2.INTER_LINEAR,
    "mask_interpolation": cv2.INTER_NEAREST_EXACT,
    "area_for_downscale": "image",
}


Pair = tuple[np.ndarray, np.ndarray]  # image uint8 (H, W, 3), mask uint8 (H, W)


class RandomCrop:
    """Training view: RandomResizedCrop(crop, scale 0.5-1, ratio 3/4-4/3) and horizontal flip, as PLOP trains on VOC."""

    def __init__(self, crop: int) -> None:
        self._compose = A.Compose(
            [
                A.RandomResizedCrop((crop, crop), scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), **_RESAMPLING),
                A.HorizontalFlip(),
            ]
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> Pair:
        """A part of both at the same place, (crop, crop); the same for the same seed."""
        self._compose.set_random_seed(seed)
        out = self._compose(image=image, mask=mask)
        return out["image"], out["mask"]


class CentreCrop:
    """Test view of the published numbers: Resize(short side = crop), CenterCrop(crop). Also resizes the mask."""

    def __init__(self, crop: int) -> None:
        self._compose = A.Compose([A.SmallestMaxSize(crop, **_RESAMPLING), A.CenterCrop(crop, crop)])

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> Pair:
        """The middle of both, (crop, crop)."""
        out = self._compose(image=image, mask=mask)
        return out["image"], out["mask"]


class WholeImage:
    """The image as it is, padded at the right and the bottom to a multiple of 16; padding is void and never counted."""

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> Pair:
        """Both with sides that 16 divides."""
        bottom, right = (-side % 16 for side in mask.shape)
        image = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")
        return image, np.pad(mask, ((0, bottom), (0, right)), constant_values=VOID)


class PaddedCrop:
    """Training view of small images with a label: 4 black pixels at every side, a random crop, horizontal flip.

    As in Adam-NSCL. Images of another size than the crop are resized to it first, and masks (one pixel) stay.
    """

    def __init__(self, crop: int) -> None:
        self._compose = A.Compose(
            [A.Resize(crop, crop, cv2.INTER_AREA), A.Pad(4), A.RandomCrop(crop, crop), A.HorizontalFlip()]
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> Pair:
        """The image (crop, crop), the same for the same seed; the mask as it is."""
        self._compose.set_random_seed(seed)
        return self._compose(image=image)["image"], mask


class Resized:
    """Test view of small images with a label: the whole image, resized to the crop if it has another size."""

    def __init__(self, crop: int) -> None:
        self._compose = A.Compose([A.Resize(crop, crop, cv2.INTER_AREA)])

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> Pair:
        """The image (crop, crop); the mask as it is."""
        return self._compose(image=image)["image"], mask
