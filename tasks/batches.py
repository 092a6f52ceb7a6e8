"""Images of one task as a torch data set, and the batches of an epoch."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from tasks.source import Source


class Transform(Protocol):
    """A view of an image and its mask: `tasks.views` has them."""

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) and mask uint8 (H, W) as the network sees them; `seed` decides all that is random."""


class TaskImages(Dataset):
    """(image uint8 (3, H, W), label uint8 (H, W)) of the given images of a split.

    An item is asked for by (position, seed): whatever is random depends on that seed alone, so neither the number of
    workers nor a restart in the middle of a run changes what is seen.
    """

    def __init__(self, source: Source, split: str, indices: np.ndarray, lut: np.ndarray, transform: Transform) -> None:
        self.source, self.split, self.indices, self.lut, self.transform = source, split, indices, lut, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        position, seed = item
        image, mask = self.source.load(self.split, int(self.indices[position]))
        image, mask = self.transform(image, mask, seed)
        return torch.from_numpy(_planes(image)), torch.from_numpy(cv2.LUT(mask, self.lut))


def _planes(image: np.ndarray) -> np.ndarray:
    """(3, H, W) of (H, W, 3); as the look-up of labels by OpenCV, which takes a fifth of numpy's time."""
    planes = np.empty((3, *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return planes


class TrainBatches:
    """Batch sampler: shuffled (position, seed) pairs, the last incomplete batch dropped.

    Every process draws the same permutation and keeps its slice of each global batch, so that `world` processes see
    exactly the images of one process with the same global batch. A task with fewer images than one batch fills its
    only batch by going round again (each repetition is augmented anew).
    """

    def __init__(self, images: int, batch: int, seed: Sequence[int], rank: int = 0, world: int = 1) -> None:
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

    def __init__(self, images: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.images, self.batch, self.rank, self.world = images, batch, rank, world

    def __len__(self) -> int:
        return len(range(self.rank * self.batch, self.images, self.batch * self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(self.rank * self.batch, self.images, self.batch * self.world):
            yield [(position, 0) for position in range(start, min(start + self.batch, self.images))]
