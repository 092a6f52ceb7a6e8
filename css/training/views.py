"""Features of the training images in a network that stays as it is: a few views of each, in files."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from css.system.processes import Processes
from tasks import InputError


class FeatureViews(Dataset):
    """Features (D, h, w) and label maps (H, W) of the training images, for every view a random crop of each.

    They lie in files that are mapped to memory, shared by all processes of a run; small ones never leave the memory.
    An item is asked for by (position, seed), and the seed says which view: so an epoch sees some of all.
    """

    def __init__(self, features: Tensor, labels: Tensor, share: slice, batch: int) -> None:
        self.features, self.labels = features, labels  # (views, N, D, h, w) and (views, N, H, W)
        self.share, self.batch = share, batch  # of every batch this process computed these, of so many images

    def __len__(self) -> int:
        return self.features.shape[1]

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        position, seed = item
        view = seed % len(self.features)
        return self.features[view, position], self.labels[view, position]

    def keep(self, view: int, index: int, features: Tensor, labels: Tensor) -> None:
        """What this process made of its part of a batch."""
        rows = self._rows(index)
        self.features[view, rows], self.labels[view, rows] = features.cpu(), labels.cpu()

    def seen(self, view: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a view, of each the part that this process computed."""
        for index in range(len(self) // self.batch):
            rows = self._rows(index)
            yield self.features[view, rows], self.labels[view, rows]

    def _rows(self, index: int) -> slice:
        return slice(index * self.batch + self.share.start, index * self.batch + self.share.stop)


def make_views(
    folder: Path, features: Tensor, labels: Tensor, views: int, batches: int, processes: Processes
) -> FeatureViews:
    """Room for so many views, in `folder`, for what every process makes of its part of so many batches.

    `features` and `labels` are such a part. Raises InputError if the disk is too small.
    """
    number, share = batches * len(features) * processes.world, len(features)
    sizes = [(views, number, *part.shape[1:]) for part in (features, labels)]
    needed = sum(part.element_size() * math.prod(size) for part, size in zip((features, labels), sizes, strict=True))
    processes.first(lambda: _require_space(folder, needed))
    return FeatureViews(
        _mapped(folder / "features.map", sizes[0], features.dtype, processes),
        _mapped(folder / "labels.map", sizes[1], labels.dtype, processes),
        slice(processes.rank * share, (processes.rank + 1) * share),
        share * processes.world,
    )


def _require_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < needed:
        raise InputError(
            f"The features of a task's images need {needed / 1e9:.1f} GB in {folder}: free some space or choose "
            "another folder (--runs)."
        )


def _mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype, processes: Processes) -> Tensor:
    """A tensor in a file: what one process writes, all see. Made anew, whatever a killed run left."""

    def make() -> None:
        path.unlink(missing_ok=True)
        torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype)

    processes.first(make)
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
