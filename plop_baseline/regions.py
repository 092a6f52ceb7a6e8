"""The distance of two maps by Local POD, with its gradient, in one pass over the maps for each.

Autograd would keep and walk through float32 copies of whole maps, several times. Here the borders of all regions cut a
map into a few bands of rows and of columns. One pass takes the sums over bands; the means of all scales, their norm and
its gradient are made of these sums, which are small. Maps become float32 in parts that stay in the cache.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tasks.errors import InputError

SCALES = (1, 2, 4)
BLOCK = 2**17  # numbers of a map that are worked on at a time on a CPU


def distance(old: Tensor, new: Tensor) -> Tensor:
    """||Phi(old^2) - Phi(new^2)|| of every image, (B,), Phi = `local_pod` with SCALES, at least in float32.

    old, new: (B, C, H, W) of any floating type; the old maps are a constant. Where both agree, the gradient is zero.
    Raises InputError if the maps are smaller than the largest scale.
    """
    require_scale(new.shape[2:], max(SCALES))
    return _Distance.apply(old, new)


def require_scale(size: Sequence[int], scale: int) -> None:
    """Raises InputError for maps (H, W) that this number of regions does not fit into."""
    if min(size) < scale:
        raise InputError(
            f"A {size[0]} x {size[1]} map is too small for Local POD's scale {scale}: use a larger --train.crop."
        )


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, old: Tensor, new: Tensor) -> Tensor:
        old, new = _channels_last(old), _channels_last(new)
        batch, height, width, channels = new.shape
        down, across = (_bands(side).to(new.device, _full_type(new)) for side in (height, width))
        of_row = down.new_empty(batch, height, len(across), channels)
        of_column = down.new_empty(batch, len(down), width, channels)
        squares = down.new_empty(batch, dtype=torch.float64)
        with torch.autocast(new.device.type, enabled=False):
            for images, blocks in _blocks(new):
                by_row, by_column = _sums(old[images], new[images], down, across, blocks)
                of_row[images] = _of_all_scales(by_row, width)
                of_column[images] = _of_all_scales(by_column.transpose(1, 2), height).transpose(1, 2)
                squares[images] = _product(by_row, of_row[images]) + _product(by_column, of_column[images])
        distance = squares.clamp(min=0).sqrt().to(down.dtype)
        ctx.save_for_backward(new, of_row, of_column.flatten(2), down, across, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        new, of_row, of_column, down, across, distance = ctx.saved_tensors
        factor = torch.where(distance > 0, -2 * gradient / distance, 0)[:, None, None, None]
        found = torch.empty_like(new)
        with torch.autocast(new.device.type, enabled=False):
            for images, blocks in _blocks(new):
                for rows in blocks:
                    block = across.T @ of_row[images, rows]
                    lines = down[:, rows].T.expand(len(block), -1, -1)
                    block.flatten(2).baddbmm_(lines, of_column[images])
                    found[images, rows] = block.mul_(new[images, rows]).mul_(factor[images])
        return None, found.permute(0, 3, 1, 2)


def _sums(old: Tensor, new: Tensor, down: Tensor, across: Tensor, blocks: list[slice]) -> tuple[Tensor, Tensor]:
    """Of old^2 - new^2 (B, H, W, C): over bands of columns, (B, H, bands, C), over those of rows, (B, bands, W, C)."""
    by_column = down.new_zeros(len(new), len(down), new[0, 0].numel())
    by_row = []
    for rows in blocks:
        difference = old[:, rows].to(down.dtype, copy=True).square_()
        difference -= new[:, rows].to(down.dtype, copy=True).square_()
        by_row.append(across @ difference)
        by_column.baddbmm_(down[:, rows].expand(len(new), -1, -1), difference.flatten(2))
    return torch.cat(by_row, dim=1), by_column.view(len(new), len(down), *new.shape[2:])


def _channels_last(x: Tensor) -> Tensor:
    """(B, H, W, C)."""
    return x.detach().permute(0, 2, 3, 1).contiguous()


def _full_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _blocks(x: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Images and rows of parts of x (B, H, W, C) of at most about BLOCK numbers; of all of it on a GPU."""
    batch, height = x.shape[:2]
    most = BLOCK if x.device.type == "cpu" else x.numel()
    images, rows = max(1, most // x[0].numel()), max(1, most // x[0, 0].numel())
    for image in range(0, batch, images):
        yield slice(image, image + images), [slice(row, row + rows) for row in range(0, height, rows)]


def _borders(side: int) -> list[int]:
    """Where the bands begin and the last one ends: all borders of the regions of all scales, 0 and `side` included."""
    return sorted({side, *(side // s * i for s in SCALES for i in range(s + 1))})


@functools.cache
def _bands(side: int) -> Tensor:
    """(bands, side): 1 where a row or column lies in a band."""
    borders = torch.tensor(_borders(side))
    places = torch.arange(side)
    return (borders[:-1, None] <= places) & (places < borders[1:, None])


def _of_all_scales(sums: Tensor, side: int) -> Tensor:
    """Half the gradient of the sum of the squared means of all strips, with respect to the sums over bands.

    sums: (B, N, bands, C), of N rows over bands of columns or of N columns over bands of rows; the bands divide `side`.
    """
    parts = [square.to(sums) @ sums[:, places] for places, square in _squares(side, sums.shape[1])]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


@functools.cache
def _squares(side: int, length: int) -> list[tuple[slice, Tensor]]:
    """M^T M (bands, bands) by parts of N = `length` rows, M the means of the strips of all scales from sums over bands.

    What the division of `length` by a scale leaves over belongs to none of its regions.
    """
    ends = sorted({length // s * s for s in SCALES} | {length})
    parts = []
    for begin, end in itertools.pairwise([0, *ends]):
        means = [_means(side, s) for s in SCALES if end <= length // s * s]  # never none: scale 1 leaves nothing over
        parts.append((slice(begin, end), torch.cat(means).T @ torch.cat(means)))
    return parts


def _means(side: int, s: int) -> Tensor:
    """(s, bands): means of the s strips of scale s from sums over bands; what the division leaves over is in none."""
    width, begins = side // s, torch.tensor(_borders(side)[:-1])
    return (begins // width == torch.arange(s)[:, None]).double() / width


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product of every image, float64 (B,)."""
    return (a * b).sum(-1).double().flatten(1).sum(1)
