"""Colours for classes of any data set: as far apart as the eye can tell, the same ones every time."""

import functools

import cv2
import numpy as np

from tasks.source import Source

BLACK, WHITE = (0, 0, 0), (255, 255, 255)  # of the background and of void


@functools.cache
def distinct_palette() -> np.ndarray:
    """Colours, uint8 (256, 3) RGB, by raw class id: 0 black, 255 white, the rest from the farthest point on.

    Each next colour is the one of a grid of 12^3 whose nearest colour so far is farthest away in CIELAB (Gonzalez 1985,
    farthest-first traversal), so the first few classes differ most and no two of the 256 are equal.
    """
    return _farthest_first(vivid=False)


@functools.cache
def vivid_palette() -> np.ndarray:
    """The same among colours that stand out from a photograph: neither dark nor pale nor grey."""
    return _farthest_first(vivid=True)


def _farthest_first(vivid: bool) -> np.ndarray:
    levels = np.rint(np.linspace(0, 255, 14 if vivid else 12)).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = cv2.cvtColor(grid[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distance = np.minimum(_distances(lab, 0), _distances(lab, len(grid) - 1))
    if vivid:
        kept = (lab[:, 0] > 45) & (lab[:, 0] < 85) & (np.hypot(lab[:, 1], lab[:, 2]) > 45)
        grid, lab, distance = grid[kept], lab[kept], distance[kept]
    palette = np.empty((256, 3), np.uint8)
    palette[0], palette[255] = BLACK, WHITE
    for class_id in range(1, 255):
        farthest = int(distance.argmax())
        palette[class_id] = grid[farthest]
        distance = np.minimum(distance, _distances(lab, farthest))
    palette.setflags(write=False)
    return palette


def palette_of(source: Source) -> np.ndarray:
    """The colours of a data set, uint8 (256, 3) RGB by raw class id: its own, or those of `distinct_palette`."""
    own = getattr(source, "palette", None)
    return np.asarray(distinct_palette() if own is None else own, np.uint8)


def _distances(lab: np.ndarray, index: int) -> np.ndarray:
    return np.linalg.norm(lab - lab[index], axis=1)
