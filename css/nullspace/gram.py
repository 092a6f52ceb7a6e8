"""Sums of G G^T: exact up to a width, a Frequent Directions sketch above it."""

import torch
from torch import Tensor

EXACT_UP_TO = 1152  # columns; a 3x3 convolution of 128 channels. Wider matrices would dominate the memory.
SKETCH_ROWS = 256


class Gram:
    """M = sum of rows^T rows over all rows ever given, (width, width)."""

    delta = 0.0  # an exact matrix underestimates nothing

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    @classmethod
    def empty(cls, width: int, like: Tensor) -> "Gram":
        return cls(torch.zeros(width, width, dtype=_precise(like.dtype), device=like.device))

    def update(self, rows: Tensor) -> None:
        """Adds rows (n, width)."""
        rows = rows.to(self.matrix)
        self.matrix.addmm_(rows.T, rows)

    def merge(self, other: "Gram", scale: float = 1.0) -> None:
        self.matrix += scale * other.matrix.to(self.matrix)

    def trace(self) -> float:
        return self.matrix.diagonal().double().sum().item()

    def scale(self, factor: float) -> None:
        self.matrix *= factor

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (width,), largest first, clamped at 0, and eigenvectors as columns, in float64."""
        values, vectors = torch.linalg.eigh(self.matrix.double())
        return values.flip(0).clamp(min=0), vectors.flip(1)

    def tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    def emptied(self) -> "Gram":
        return Gram(torch.zeros_like(self.matrix))

    @property
    def width(self) -> int:
        return self.matrix.shape[1]

    @property
    def bytes(self) -> int:
        return self.matrix.numel() * self.matrix.element_size()


class Sketch:
    """Frequent Directions (Liberty, KDD 2013): B with at most `size` rows, and 0 <= M - B^T B <= delta I.

    `delta` is known as the sketch grows; it is at most trace(M) / size. Rows are collected until there are twice as
    many, then the smallest half of the spectrum is cut off.
    """

    def __init__(self, rows: Tensor, size: int, delta: float = 0.0):
        self.rows, self.size, self.delta = rows, size, delta

    @classmethod
    def empty(cls, width: int, size: int, like: Tensor) -> "Sketch":
        return cls(torch.zeros(0, width, dtype=_precise(like.dtype), device=like.device), size)

    def update(self, rows: Tensor) -> None:
        """Adds rows (n, width)."""
        for part in rows.split(self.size):
            self.rows = torch.cat([self.rows, part.to(self.rows)])
            if len(self.rows) > self.size:
                self._shrink()

    def merge(self, other: "Sketch", scale: float = 1.0) -> None:
        """The bound of both together holds for the sum."""
        self.delta += scale * other.delta
        self.update(scale**0.5 * other.rows)

    def trace(self) -> float:
        return self.rows.double().square().sum().item()

    def scale(self, factor: float) -> None:
        self.rows = self.rows * factor**0.5
        self.delta *= factor

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (r,) of B^T B, largest first, and eigenvectors (width, r), r <= `size`, in float64.

        Through the r x r matrix B B^T: the width is never decomposed.
        """
        return _row_space(self.rows.double())

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows, "delta": torch.tensor(self.delta, dtype=torch.float64)}

    def emptied(self) -> "Sketch":
        return Sketch(self.rows[:0].clone(), self.size)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    @property
    def bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()

    def _shrink(self) -> None:
        """Subtracts the (size + 1)-th eigenvalue from all; what becomes zero is dropped."""
        values, vectors = _row_space(self.rows)
        cut = values[self.size].clamp(min=0) if len(values) > self.size else values.new_zeros(())
        kept = (values - cut).clamp(min=0).sqrt()
        alive = kept > 0
        self.rows = (kept[alive, None] * vectors.T[alive]).contiguous()
        self.delta += cut.item()


def _row_space(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of rows^T rows, largest first, and its eigenvectors (width, r) without those of eigenvalue 0."""
    if not len(rows):
        return rows.new_zeros(0), rows.new_zeros(rows.shape[1], 0)
    values, left = torch.linalg.eigh((rows @ rows.T).double())
    values, left = values.flip(0), left.flip(1)
    alive = values > len(rows) * torch.finfo(rows.dtype).eps * values[0].clamp(min=torch.finfo(torch.float64).tiny)
    values, left = values[alive], left[:, alive]
    vectors = rows.T @ (left / values.sqrt()).to(rows.dtype)
    return values.to(rows.dtype), vectors


def make_gram(width: int, exact_up_to: int, sketch_rows: int, like: Tensor) -> Gram | Sketch:
    return Gram.empty(width, like) if width <= exact_up_to else Sketch.empty(width, sketch_rows, like)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32
