"""Queries of segmentation dreams: label maps of one to three objects of random shape."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from css.system.processes import Processes
from tasks import InputError
from tasks.source import BACKGROUND, VOID

GRID = 8  # cells per side of the histograms of place
AREAS = 10  # bins of the histograms of area, by its square root
LARGEST, SMALLEST = 0.45, 0.05  # share of the image that an object takes, where nothing is known


class LayoutStatistics:
    """What label maps look like, in a few kB: per class how often, with which others, how large and where.

    `company[a, b]`: maps that show a and b (the diagonal: that show a); `areas[a]`: histogram of the square root of the
    share of the map; `places[a]`: pixels per cell of a coarse grid, each map counted as 1. Channels, not raw ids.
    """

    def __init__(self) -> None:
        self.company = torch.zeros(0, 0, dtype=torch.float64)
        self.areas = torch.zeros(0, AREAS, dtype=torch.float64)
        self.places = torch.zeros(0, GRID, GRID, dtype=torch.float64)

    def update(self, labels: Tensor, channels: int) -> None:
        """Counts label maps (B, H, W) of `channels` channels; void (255) belongs to none."""
        self._grow(channels)
        per_cell = _count_pixels(labels.cpu().long(), channels)
        pixels = per_cell.sum(1)
        shown = (pixels > 0).double()
        self.company[:channels, :channels] += shown.T @ shown
        share = pixels / labels[0].numel()
        bins = (share.sqrt() * AREAS).long().clamp(max=AREAS - 1)
        self.areas[:channels] += (F.one_hot(bins, AREAS) * shown[..., None]).sum(0)
        places = (per_cell / pixels[:, None].clamp(min=1)).sum(0)
        self.places[:channels] += places.T.unflatten(1, (GRID, GRID))

    def add(self, other: "LayoutStatistics") -> None:
        """Those of a further task, which may know more channels."""
        channels = len(other.company)
        self._grow(channels)
        self.company[:channels, :channels] += other.company
        self.areas[:channels] += other.areas
        self.places[:channels] += other.places

    def reduce(self, processes: Processes) -> None:
        """The sum over all processes."""
        for name, value in self.tensors().items():
            setattr(self, name, processes.sum(value))

    def tensors(self) -> dict[str, Tensor]:
        """All counts by name, float64."""
        return {"company": self.company, "areas": self.areas, "places": self.places}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "LayoutStatistics":
        """Takes back what `tensors` returned."""
        statistics = cls()
        for name, value in tensors.items():
            setattr(statistics, name, value.clone())
        return statistics

    def _grow(self, channels: int) -> None:
        more = max(0, channels - len(self.company))
        self.company = F.pad(self.company, (0, more, 0, more))
        self.areas = F.pad(self.areas, (0, 0, 0, more))
        self.places = F.pad(self.places, (0, 0, 0, 0, 0, more))

    def knows(self, channel: int) -> bool:
        """Was it ever seen?"""
        return channel < len(self.company) and bool(self.company[channel, channel])

    def draw_area(self, channel: int, generator: np.random.Generator) -> float | None:
        """Share of the map, or None where nothing is known of the channel."""
        if not self.knows(channel):
            return None
        counts = self.areas[channel].numpy()
        root = (generator.choice(AREAS, p=counts / counts.sum()) + generator.random()) / AREAS
        return float(np.clip(root**2, 0.01, 0.8))

    def draw_place(self, channel: int, generator: np.random.Generator) -> tuple[float, float] | None:
        """Centre (row, column) between 0 and 1, or None where nothing is known of the channel."""
        if not self.knows(channel):
            return None
        counts = self.places[channel].flatten().numpy()
        row, column = divmod(int(generator.choice(GRID * GRID, p=counts / counts.sum())), GRID)
        return (row + generator.random()) / GRID, (column + generator.random()) / GRID

    def draw_companion(self, channel: int, others: Sequence[int], generator: np.random.Generator) -> int | None:
        """Another of the channels that were seen together with this known one, by how often; None: it is alone."""
        weights = np.array([self.company[channel, o].item() if o < len(self.company) else 0.0 for o in others])
        alone = max(self.company[channel, channel].item() - weights.sum(), 0.0)
        if not weights.sum() or generator.random() < alone / (alone + weights.sum()):
            return None
        return int(generator.choice(others, p=weights / weights.sum()))


def require_room(num: int, channels: Sequence[int]) -> None:
    """Raises InputError if `num` maps are too few for every channel to be the first object of one."""
    if num < len(channels):
        raise InputError(
            f"--options.dream.count {num} leaves no room for some of {len(channels)} classes; give at least as many."
        )


def sample_layouts(num: int, size: int, channels: Sequence[int], seed: int,
                   statistics: LayoutStatistics | None = None) -> Tensor:  # fmt: skip
    """`num` label maps (num, size, size), uint8: background and one to three objects of these channels.

    Every channel is the first object of a map about equally often, so at least floor(num / len(channels)) times; no
    object hides more than half of an earlier one. With `statistics`, company, area and place are drawn from them where
    they know the channel. Raises InputError if there are fewer maps than channels: a class would have no room.
    """
    if not channels or BACKGROUND in channels:
        raise ValueError(f"objects need channels above {BACKGROUND}, not {list(channels)}")
    require_room(num, channels)
    generator = np.random.default_rng([seed, size, num])
    firsts = np.array([channels[i % len(channels)] for i in range(num)])
    generator.shuffle(firsts)
    maps = [_layout(int(first), channels, size, generator, statistics) for first in firsts]
    return torch.from_numpy(np.stack(maps))


def _layout(
    first: int, channels: Sequence[int], size: int, generator: np.random.Generator, statistics: LayoutStatistics | None
) -> np.ndarray:
    labels = np.full((size, size), BACKGROUND, np.uint8)
    drawn: dict[int, int] = {}  # pixels of every object
    for channel in _objects(first, channels, generator, statistics):
        mask = _shape(channel, size, generator, statistics)
        painted = np.where(mask, np.uint8(channel), labels)
        left = np.bincount(painted.ravel(), minlength=VOID)
        if all(2 * left[earlier] >= pixels for earlier, pixels in drawn.items()):
            labels, drawn = painted, drawn | {channel: int(mask.sum())}
    return labels


def _objects(
    first: int, channels: Sequence[int], generator: np.random.Generator, statistics: LayoutStatistics | None
) -> list[int]:
    """`first` and up to two others."""
    objects, others = [first], [channel for channel in channels if channel != first]
    for _ in range(min(int(generator.integers(0, 3)), len(others))):
        if statistics and statistics.knows(first):
            companion = statistics.draw_companion(first, others, generator)
        else:
            companion = int(generator.choice(others))
        if companion is not None:
            objects.append(companion)
            others.remove(companion)
    return objects


def _shape(channel: int, size: int, generator: np.random.Generator, statistics: LayoutStatistics | None) -> np.ndarray:
    """A mask (size, size) of the area and around the place that belong to the channel."""
    area = statistics.draw_area(channel, generator) if statistics else None
    place = statistics.draw_place(channel, generator) if statistics else None
    area = generator.uniform(SMALLEST, LARGEST) if area is None else area
    row, column = (generator.random(), generator.random()) if place is None else place
    rows, columns = np.mgrid[0:size, 0:size] / size
    offset = rows - row, columns - column
    kind = generator.integers(3)
    if kind == 0:  # an ellipse, turned
        angle, stretch = generator.uniform(0, math.pi), generator.uniform(1, 2.5)
        along = math.cos(angle) * offset[0] + math.sin(angle) * offset[1]
        across = -math.sin(angle) * offset[0] + math.cos(angle) * offset[1]
        value = -np.hypot(along / stretch, across * stretch)
    elif kind == 1:  # a smooth random field, pulled to the place
        field = ndimage.gaussian_filter(generator.standard_normal((size, size)), size / generator.uniform(6, 14))
        value = field / field.std() - 3 * np.hypot(*offset)
    else:  # Voronoi cells near the place, the nearer the likelier
        points = np.stack([row, column]) + generator.normal(0, 0.35, (12, 2))
        distance = np.hypot(rows[..., None] - points[:, 0], columns[..., None] - points[:, 1])
        value = -np.hypot(*offset) - 0.3 * generator.random(12)[distance.argmin(-1)]
    return value >= np.quantile(value, 1 - area)


def ignore_boundary(layouts: Tensor, width: int) -> Tensor:
    """Label maps (N, H, W) with 255 where another label is at most `width` pixels away (Euclidean, between centres).

    A low-resolution network cannot draw there. An object too thin for it keeps its inner half, so that it still counts.
    """
    maps = layouts.cpu().numpy()
    inner = np.stack([_inner(labels, width) for labels in maps])
    return torch.from_numpy(np.where(inner, maps, np.array(VOID, maps.dtype))).to(layouts.device)


def _inner(labels: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W): far enough from every other label."""
    inner = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        mask = labels == label
        if mask.all():
            return mask
        distance = ndimage.distance_transform_edt(mask)  # to the nearest other label; the image's edge is none
        inner |= distance > min(width, distance.max() / 2)
    return inner


def _count_pixels(labels: Tensor, channels: int) -> Tensor:
    """float64 (B, cells, channels): pixels of every channel in every cell of the grid."""
    batch, height, width = labels.shape
    rows, columns = (torch.arange(side) * GRID // side for side in (height, width))
    places = torch.arange(batch)[:, None, None] * GRID * GRID + rows[:, None] * GRID + columns
    known = labels < channels
    index = places[known] * channels + labels[known]
    return torch.bincount(index, minlength=batch * GRID * GRID * channels).double().view(batch, GRID * GRID, channels)


def as_maps(queries: Tensor) -> Tensor:
    """Classes (N,) become label maps (N, 1, 1); all else is the same for classification and segmentation.

    Raises ValueError for a class of 255, which stands for ignored pixels.
    """
    if queries.dim() == 1 and (queries >= VOID).any():
        raise ValueError(f"classes must lie below {VOID}, which stands for ignored pixels")
    return queries if queries.dim() == 3 else queries[:, None, None]
