"""Batches from worker processes, and the precision of forward passes."""

from collections.abc import Iterable

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from css.config.settings import RunConfig
from css.system.processes import Processes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: RunConfig, processes: Processes, keep_casts: bool = True) -> torch.autocast:
    """The precision of forward passes, in training and in evaluation.

    `keep_casts`: until the end of the block, half of the memory of all trainable weights; for several passes in one.
    """
    dtype = DTYPES[config.train.precision]
    enabled = dtype is not torch.float32
    return torch.autocast(processes.device.type, dtype, enabled, cache_enabled=keep_casts)


def make_loader(
    images: Dataset, batches: Iterable[list[tuple[int, int]]], workers: int, processes: Processes
) -> DataLoader:
    """Batches of images (B, 3, H, W), or of their features, with labels; `batches` gives (position, seed) of items."""
    return DataLoader(
        images, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=processes.device.type == "cuda", worker_init_fn=_single_thread,
    )  # fmt: skip


def _single_thread(_: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism; threads inside them only fight for the cores
