"""Episodic memory: some training images of every task are kept, for GEM, A-GEM and replay."""

import numpy as np
import torch
from torch import Tensor

from css.training.trainer import Trainer
from tasks import InputError, Task
from tasks.batches import TaskImages


class EpisodicMemory:
    """Which images of which task, by their places in the data set; the pixels are read from there again."""

    def __init__(self) -> None:
        self.indices: list[Tensor] = []  # int64, by task

    def add(self, task: Task, count: int, seed: int) -> None:
        """Keeps `count` images of a task, drawn at random; all if it has fewer."""
        chosen = np.random.default_rng([seed, task.index]).permutation(task.train_indices)[:count]
        self.indices.append(torch.from_numpy(np.sort(chosen)))

    def draw(self, task: Task, of: int | None, count: int, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """`count` kept images of an earlier task (None: of all), as they are seen in training.

        uint8 images (count, 3, H, W), and labels (count, H, W) as channels on the device. Uses torch's random numbers,
        which a restart draws again.
        """
        kept = (torch.cat(self.indices) if of is None else self.indices[of]).numpy()
        view = trainer.kind.train_view(trainer.config.train.crop)
        images = TaskImages(task.source, "train", kept, task.test_lut, view)
        places, seeds = torch.randint(len(kept), (count,)).tolist(), torch.randint(2**31, (count,)).tolist()
        pairs = [images[pair] for pair in zip(places, seeds, strict=True)]
        pixels, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
        return pixels, labels.to(trainer.processes.device)

    def tensors(self) -> dict[str, Tensor]:
        """The places, int64 (kept,) for each task, as memory.TASK."""
        return {f"memory.{task}": kept for task, kept in enumerate(self.indices)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "EpisodicMemory":
        """The memory that gave these tensors."""
        memory = cls()
        memory.indices = [tensors[f"memory.{task}"] for task in range(len(tensors))]
        return memory


def require_memory(memory: int, batch: int, flag: str) -> None:
    """Raises InputError for a memory of nothing, or of too few images at a time for BatchNorm's statistics."""
    if memory < 1:
        raise InputError(f"{flag}.memory {memory} must be at least 1.")
    if batch < 2:
        raise InputError(f"{flag}.batch {batch} must be at least 2: BatchNorm has no statistics of one image.")
