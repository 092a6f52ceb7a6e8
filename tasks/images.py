"""Images of one task as a torch data set: decoded, cropped, labels mapped by table; and the batches of an epoch."""

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else every import asks the package index for a newer version

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from tasks.source import VOID, Source

# Shrinking with the area filter: plain bilinear sampling aliases, and small crops of large photographs are the rule on
# a CPU. Enlarging stays bilinear, as published. Masks are always sampled with nearest neighbour.
_RESAMPLING = {
    "interpolation": cv2.INTER_LINEAR,
    "mask_interpolation": cv2.INTER_NEAREST,
    "area_for_downscale": "image",
}


class Transform(Protocol):
    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]: ...


class RandomCrop:
    """Training view: RandomResizedCrop(crop, scale 0.5-1, ratio 3/4-4/3) and horizontal flip, as PLOP trains on VOC."""

    def __init__(self, crop: int):
        self._compose = A.Compose(
            [
                A.RandomResizedCrop((crop, crop), scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), **_RESAMPLING),
                A.HorizontalFlip(),
            ]
        )

    def __call__(self, image, mask, seed):
        self._compose.set_random_seed(seed)
        out = self._compose(image=image, mask=mask)
        return out["image"], out["mask"]


class CentreCrop:
    """Test view of the published numbers: Resize(short side = crop), CenterCrop(crop). Also resizes the mask."""

    def __init__(self, crop: int):
        self._compose = A.Compose([A.SmallestMaxSize(crop, **_RESAMPLING), A.CenterCrop(crop, crop)])

    def __call__(self, image, mask, seed=0):
        out = self._compose(image=image, mask=mask)
        return out["image"], out["mask"]


class WholeImage:
    """The image as it is, padded at the right and the bottom to a multiple of 16; padding is void and never counted."""

    def __call__(self, image, mask, seed=0):
        bottom, right = (-side % 16 for side in mask.shape)
        image = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")
        return image, np.pad(mask, ((0, bottom), (0, right)), constant_values=VOID)


class PaddedCrop:
    """Training view of small images with a label: 4 black pixels at every side, a random crop, horizontal flip.

    As in Adam-NSCL. Images of another size than the crop are resized to it first, and masks (one pixel) stay.
    """

    def __init__(self, crop: int):
        self._compose = A.Compose(
            [A.Resize(crop, crop, cv2.INTER_AREA), A.Pad(4), A.RandomCrop(crop, crop), A.HorizontalFlip()]
        )

    def __call__(self, image, mask, seed):
        self._compose.set_random_seed(seed)
        return self._compose(image=image)["image"], mask


class Resized:
    """Test view of small images with a label: the whole image, resized to the crop if it has another size."""

    def __init__(self, crop: int):
        self._compose = A.Compose([A.Resize(crop, crop, cv2.INTER_AREA)])

    def __call__(self, image, mask, seed=0):
        return self._compose(image=image)["image"], mask


class TaskImages(Dataset):
    """(image uint8 (3, H, W), label uint8 (H, W)) of the given images of a split.

    An item is asked for by (position, seed): whatever is random depends on that seed alone, so neither the number of
    workers nor a restart in the middle of a run changes what is seen.
    """

    def __init__(self, source: Source, split: str, indices: np.ndarray, lut: np.ndarray, transform: Transform):
        self.source, self.split, self.indices, self.lut, self.transform = source, split, indices, lut, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        position, seed = item
        image, mask = self.source.load(self.split, int(self.indices[position]))
        image, mask = self.transform(image, mask, seed)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(self.lut[mask])


class TrainBatches:
    """Batch sampler: shuffled (position, seed) pairs, the last incomplete batch dropped.

    Every process draws the same permutation and keeps its slice of each global batch, so that `world` processes see
    exactly the images of one process with the same global batch. A task with fewer images than one batch fills its
    only batch by going round again (each repetition is augmented anew).
    """

    def __init__(self, images: int, batch: int, seed: Sequence[int], rank: int = 0, world: int = 1):
        self.images, self.batch, self.seed, self.rank, self.world = images, batch, seed, rank, world
        self.epoch = 0  # set before each pass

    def __len__(self) -> int:
        return max(1, self.images // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([*self.seed, self.epoch])
        order = rng.permutation(self.images)
        order = np.resize(order, len(self) * self.batch)
        seeds = rng.integers(2**31, size=len(order))
        share = self.batch // self.world
        for start in range(self.rank * share, len(order), self.batch):
            part = slice(start, start + share)
            yield list(zip(order[part].tolist(), seeds[part].tolist(), strict=True))


class TestBatches:
    """Batch sampler: every image once, in order. Process r of w takes the batches r, r + w, ... (none is padded)."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    def __init__(self, images: int, batch: int, rank: int = 0, world: int = 1):
        self.images, self.batch, self.rank, self.world = images, batch, rank, world

    def __len__(self) -> int:
        return len(range(self.rank * self.batch, self.images, self.batch * self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(self.rank * self.batch, self.images, self.batch * self.world):
            yield [(position, 0) for position in range(start, min(start + self.batch, self.images))]
