"""How a network sees an image: at which size, mirrored and scaled copies, tile by tile."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from css.predict.kept import KeptScores
from css.predict.network import Network
from tasks import InputError


@dataclass(frozen=True)
class View:
    """How images are shown to the network."""

    size: int | None = None  # short side in pixels; None for the image's own size
    tile: int | None = None  # side of the tiles in pixels; None for the whole image at once
    overlap: int = 0  # of neighbouring tiles
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def check(self) -> None:
        """Raises InputError for numbers that make no sense."""
        if self.size is not None and self.size < 16:
            raise InputError(f"--size {self.size} must be at least 16 pixels.")
        if self.tile is not None and self.tile < 64:
            raise InputError(f"--tile {self.tile} must be at least 64 pixels.")
        if self.tile is not None and not 0 <= self.overlap <= self.tile // 2:
            raise InputError(f"--overlap {self.overlap} must be between 0 and half of --tile, {self.tile // 2}.")
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            raise InputError("--scales must be numbers between 0.1 and 4, for example 0.75 1 1.25.")


Segmented = tuple[np.ndarray, np.ndarray | None]


def segment(network: Network, image: np.ndarray, view: View, scratch: Path | None = None) -> Segmented:
    """Class ids uint8 (H, W) of an image uint8 (H, W, 3), and the probabilities as the network gave them.

    These are float32 (C, h, w) at the size it saw. With tiles they are never all in memory: float16 in a file of the
    folder `scratch`, and None without it.
    """
    if not view.tile:
        return segment_together(network, [image], view)[0]
    height, width = image.shape[:2]
    seen = resized(image, view.size)
    ids = np.array(network.classes, np.uint8)
    mask, top = np.empty(seen.shape[:2], np.uint8), 0
    kept = KeptScores(scratch, (len(ids), *mask.shape[:2])) if scratch else None
    for sums in _rows_of_tiles(network, seen, view):
        rows = sums.shape[1]
        mask[top : top + rows] = ids[sums.argmax(0)]
        if kept:
            kept.write(top, sums)
        top += rows
    return mask if seen.shape == image.shape else _nearest(mask, width, height), kept.read() if kept else None


def segment_together(network: Network, images: Sequence[np.ndarray], view: View) -> list[Segmented]:
    """The same of several images that the network can see together, without tiles."""
    ids = np.array(network.classes, np.uint8)
    found = averaged(network, [resized(image, view.size) for image in images], view)
    return [(ids[best_channel(s, *image.shape[:2])], s) for image, s in zip(images, found, strict=True)]


def averaged(network: Network, images: Sequence[np.ndarray], view: View) -> list[np.ndarray]:
    """Mean probabilities float32 (C, H, W) of each image over the scales, and over mirrored copies of them."""
    found: list[list[np.ndarray]] = [[] for _ in images]
    for scale, mirrored in itertools.product(view.scales, (False, True) if view.flip else (False,)):
        copies = [np.ascontiguousarray(_at_scale(image, scale)[:, :: -1 if mirrored else 1]) for image in images]
        for image, kept, answer in zip(images, found, network.scores(copies), strict=True):
            scores = answer[:, :, ::-1] if mirrored else answer
            kept.append(scores if scores.shape[1:] == image.shape[:2] else _enlarged(scores, *image.shape[:2]))
    return [kept[0] if len(kept) == 1 else np.asarray(np.mean(kept, axis=0, dtype=np.float32)) for kept in found]


def best_channel(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Channel of the largest of the probabilities (C, h, w), enlarged bilinearly, uint8 (height, width).

    One channel is enlarged at a time, so that memory does not grow with their number.
    """
    if scores.shape[1:] == (height, width):
        return scores.argmax(0).astype(np.uint8)
    best, channels = np.full((height, width), -1, np.float32), np.zeros((height, width), np.uint8)
    for channel, score in enumerate(scores):
        enlarged = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        larger = enlarged > best
        channels[larger] = channel
        np.maximum(best, enlarged, out=best)
    return channels


def resized(image: np.ndarray, size: int | None) -> np.ndarray:
    """The image with this short side: by areas when it shrinks, bilinear when it grows, as in testing."""
    sides = resized_sides(image, size)
    return image if sides == image.shape[:2] else _scaled(image, *sides)


def resized_sides(image: np.ndarray, size: int | None) -> tuple[int, int]:
    """Height and width of an image with this short side, of its own without one."""
    height, width = image.shape[:2]
    short = min(height, width)
    if size is None:
        return height, width
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side so that they cover it, the last one at its end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def ramp(tile: int, overlap: int) -> np.ndarray:
    """Weights of a tile along a side, float32: they rise over the overlap, and fall over it at the other end."""
    rise = np.minimum(1.0, (np.arange(tile) + 1) / (overlap + 1))
    return (rise * rise[::-1]).astype(np.float32)


def _rows_of_tiles(network: Network, image: np.ndarray, view: View) -> Iterator[np.ndarray]:
    """Weighted sums of probabilities, float32 (C, rows, W), from top to bottom, when no tile will change them any more.

    They are valid until the next ones. Only the rows of one row of tiles are held: memory grows with width times
    classes, not with area.
    """
    height, width = image.shape[:2]
    tile_h, tile_w = min(view.tile, height), min(view.tile, width)
    tops, lefts = starts(height, tile_h, view.overlap), starts(width, tile_w, view.overlap)
    weight = ramp(tile_h, view.overlap)[:, None] * ramp(tile_w, view.overlap)
    held = np.zeros((len(network.classes), tile_h, width), np.float32)
    for place, top in enumerate(tops):
        for left in lefts:
            part = np.ascontiguousarray(image[top : top + tile_h, left : left + tile_w])
            held[:, :, left : left + tile_w] += weight * averaged(network, [part], view)[0]
        done = (tops[place + 1] if place + 1 < len(tops) else height) - top
        yield held[:, :done]
        held[:, : tile_h - done] = held[:, done:].copy()
        held[:, tile_h - done :] = 0


def _at_scale(image: np.ndarray, scale: float) -> np.ndarray:
    return image if scale == 1 else _scaled(image, *(max(16, round(scale * side)) for side in image.shape[:2]))


def _scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    shrinks = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _enlarged(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.stack([cv2.resize(np.ascontiguousarray(score), (width, height)) for score in scores])


def _nearest(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
