"""Pictures of dreams."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from css.dream.layouts import as_maps
from css.system.pictures import write_png


def draw_dreams(path: Path, images: Tensor, queries: Tensor, palette: np.ndarray, mean: Tensor, std: Tensor,
                predictions: Tensor | None = None, most: int = 12) -> None:  # fmt: skip
    """A PNG: the first dreams in a row, below them their queries and, if given, what a model sees in them (Fig. 3).

    images (N, 3, H, W) normalised with mean and std (3, 1, 1); queries and predictions (N, H, W), colours of the
    palette (256, 3).
    """
    size = images.shape[-2:]
    pixels = (images[:most].cpu() * std.cpu() + mean.cpu()).clamp(0, 1) * 255
    rows = [pixels.round().byte().permute(0, 2, 3, 1).numpy()]
    maps = [as_maps(maps[:most]).expand(-1, *size) for maps in (queries, predictions) if maps is not None]
    rows += [palette[some.cpu().numpy()] for some in maps]
    write_png(path, np.concatenate([np.concatenate(list(row), 1) for row in rows]))


def class_palette(palette: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Colours of channels, uint8 (256, 3), from those of raw class ids and the raw ids of the channels' classes."""
    by_channel = palette.copy()
    by_channel[: len(classes)] = palette[list(classes)]
    return by_channel
