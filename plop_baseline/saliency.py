"""Saliency maps: what of an image is an object, said by another network. A folder holds NAME.png for every image."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tqdm import tqdm

from plop_baseline.unknown_class import with_unknown
from tasks import InputError, Task
from tasks.reading import open_image
from tasks.source import Source


class RowSource:
    """Training images whose masks hold SSUL's rows: 0 unknown, 1 background, then classes; 255 void.

    Args:
        source: Images and masks of raw class ids.
        folder: A saliency map of each training image.
        lut: uint8 (256,), training labels by raw class id.
    """

    def __init__(self, source: Source, folder: Path, lut: np.ndarray) -> None:
        self.source, self.folder, self.lut = source, folder, lut

    def load(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB image uint8 (H, W, 3) and rows uint8 (H, W)."""
        image, mask = self.source.load(split, index)
        salient = read_map(self.folder / _name(self.source, index))
        rows = with_unknown(torch.from_numpy(self.lut[mask]), torch.from_numpy(salient))
        return image, rows.numpy()


def with_rows(task: Task, folder: Path) -> Task:
    """The task with rows in the place of training labels; what is salient is decided before images are cropped."""
    source = cast("Source", RowSource(task.source, folder, task.train_lut))
    return dataclasses.replace(task, source=source, train_lut=np.arange(256, dtype=np.uint8))


def read_map(path: Path) -> np.ndarray:
    """bool (H, W): where the map is not black."""
    return np.array(open_image(path)).max(2) > 0


def require_maps(folder: Path, tasks: Iterable[Task], flag: str) -> None:
    """Raises InputError, naming the file or `flag`, unless every training image has a map of its size."""
    way_out = f"or give {flag} none, which leaves the unknown class out"
    if not folder.is_dir():
        raise InputError(f"{flag} {folder} is no folder: name that of the saliency maps, {way_out}.")
    tasks = list(tasks)
    source, indices = tasks[0].source, np.unique(np.concatenate([task.train_indices for task in tasks]))
    missing = [name for name in (_name(source, index) for index in indices) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{flag} {folder} has no {missing[0]}; {len(missing)} of {len(indices)} training images have no saliency "
            f"map: add a PNG for each, {way_out}."
        )
    for index in tqdm(indices, "checking saliency maps", unit="map", disable=None):
        _require_size(folder / _name(source, index), source.load("train", int(index))[1].shape, way_out)


def _require_size(path: Path, wanted: tuple[int, ...], way_out: str) -> None:
    height, width = read_map(path).shape
    if (height, width) != wanted:
        raise InputError(
            f"saliency map {path} is {width}x{height} pixels but its image is {wanted[1]}x{wanted[0]}: make it anew at "
            f"the size of the image, {way_out}."
        )


def _name(source: Source, index: int) -> str:
    return f"{source.image_id('train', int(index))}.png"
