"""Sums of G G^T: exact up to a width, a Frequent Directions sketch above it."""

import scipy.linalg
import torch
from torch import Tensor

EXACT_UP_TO = 1152  # columns; a 3x3 convolution of 128 channels. Wider matrices would dominate the memory.
SKETCH_ROWS = 256
LIGHT = 0.01  # of trace / size
_TINY = torch.finfo(torch.float32).tiny


class Gram:
    """M = sum of rows^T rows over all rows ever given, (width, width)."""

    delta = missing = 0.0  # an exact matrix underestimates nothing

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    @classmethod
    def empty(cls, width: int, like: Tensor) -> "Gram":
        """Of no rows, on the device of `like`, in its float64 or else in float32."""
        return cls(torch.zeros(width, width, dtype=_precise(like.dtype), device=like.device))

    def update(self, rows: Tensor) -> None:
        """Adds rows (n, width)."""
        rows = rows.to(self.matrix)
        self.matrix.addmm_(rows.T, rows)

    def merge(self, other: "Gram", scale: float = 1.0) -> None:
        """Adds `scale` times another one of the same width."""
        self.matrix += scale * other.matrix.to(self.matrix)

    def trace(self) -> float:
        """Of M, summed in float64."""
        return self.matrix.diagonal().double().sum().item()

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (width,), largest first, clamped at 0, and eigenvectors as columns, in float64."""
        return _eigh(self.matrix.double())

    def tensors(self) -> dict[str, Tensor]:
        """M as "matrix"."""
        return {"matrix": self.matrix}

    def emptied(self) -> "Gram":
        """Of no rows, otherwise as this one."""
        return Gram(torch.zeros_like(self.matrix))

    @property
    def width(self) -> int:
        """Columns of the rows that are added."""
        return self.matrix.shape[1]

    @property
    def bytes(self) -> int:
        """Memory of M."""
        return self.matrix.numel() * self.matrix.element_size()


class Sketch:
    """Frequent Directions (Liberty, KDD 2013): B with at most `size` rows, and 0 <= M - B^T B <= delta I.

    Known as the sketch grows: `delta`, at most (1 + LIGHT) trace(M) / size, and `missing`, the trace of M - B^T B, no
    small part of a flat spectrum. Rows are collected until there are twice as many, then the smallest half of the
    spectrum is cut off. The gradient of a batch has few heavy directions, so its light ones are left out at once: the
    decomposition of the full buffer, most of the work, is rarely needed then.
    """

    def __init__(self, rows: Tensor, size: int, delta: float = 0.0, missing: float = 0.0) -> None:
        self.size, self.delta, self.missing = size, delta, missing
        self._parts = [rows]

    @classmethod
    def empty(cls, width: int, size: int, like: Tensor) -> "Sketch":
        """Of no rows, on the device of `like`, in its float64 or else in float32."""
        return cls(torch.zeros(0, width, dtype=_precise(like.dtype), device=like.device), size)

    @property
    def rows(self) -> Tensor:
        """B, (at most `size`, width)."""
        if len(self._parts) > 1 or self._collected > self.size:
            self._shrink()
        return self._parts[0]

    def update(self, rows: Tensor) -> None:
        """Adds rows (n, width)."""
        for part in rows.to(self._parts[0]).split(self.size):
            heavy = self._heavy(part)
            if self._collected + len(heavy) > 2 * self.size:
                self._shrink()
            self._parts.append(heavy)

    def merge(self, other: "Sketch", scale: float = 1.0) -> None:
        """The bound of both together holds for the sum."""
        self.update(scale**0.5 * other.rows)
        self.delta += scale * other.delta
        self.missing += scale * other.missing

    def trace(self) -> float:
        """Of M, exactly."""
        return self.rows.double().square().sum().item() + self.missing

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (r,) of B^T B, largest first, and eigenvectors (width, r), r <= `size`, in float64.

        Through the r x r matrix B B^T: the width is never decomposed.
        """
        rows = self.rows.double()
        if not len(rows):
            return rows.new_zeros(0), rows.new_zeros(self.width, 0)
        values, left = _eigh(rows @ rows.T)
        alive = values > len(rows) * torch.finfo(self.rows.dtype).eps * values[0].clamp(min=_TINY)
        values, left = values[alive], left[:, alive]
        return values, rows.T @ (left / values.sqrt())

    def tensors(self) -> dict[str, Tensor]:
        """B as "rows", and float64 (2,) "lost": delta and missing."""
        return {"rows": self.rows, "lost": torch.tensor([self.delta, self.missing], dtype=torch.float64)}

    def emptied(self) -> "Sketch":
        """Of no rows, otherwise as this one."""
        return Sketch(self._parts[0][:0].clone(), self.size)

    @property
    def width(self) -> int:
        """Columns of the rows that are added."""
        return self._parts[0].shape[1]

    @property
    def bytes(self) -> int:
        """Memory of what is collected at the moment."""
        return sum(part.numel() * part.element_size() for part in self._parts)

    @property
    def _collected(self) -> int:
        return sum(map(len, self._parts))

    def _heavy(self, rows: Tensor) -> Tensor:
        """The directions of rows that hold more than LIGHT / size of their trace, each with its weight."""
        values, left = _eigh(rows @ rows.T)
        number = int((values > LIGHT / self.size * values.sum().clamp(min=_TINY)).sum())
        self._lose(values[number:], values[number:].sum())
        return left[:, :number].T @ rows

    def _shrink(self) -> None:
        """Subtracts the (size + 1)-th eigenvalue from all; what becomes zero is dropped."""
        rows = torch.cat(self._parts)
        self._parts = [rows]
        if len(rows) <= self.size:
            return
        values, left = _eigh(rows @ rows.T)
        cut = values[self.size]
        alive = values > cut.clamp(min=_TINY)
        kept = values[alive] - cut
        self._lose(values[self.size :], values.double().sum() - kept.double().sum())
        self._parts = [(left[:, alive] * (kept / values[alive]).sqrt()).T @ rows]

    def _lose(self, values: Tensor, trace: Tensor) -> None:
        """No direction lost more than the first of these eigenvalues, all together `trace`."""
        self.delta += values[:1].sum().item()
        self.missing += trace.item()


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first and clamped at 0, and eigenvectors as columns, in the precision of the matrix.

    SciPy's: PyTorch's LAPACK gives up on matrices with many equal eigenvalues, as the zeros of silent inputs are.
    """
    values, vectors = scipy.linalg.eigh(matrix.cpu().numpy(), driver="evd")
    values, vectors = torch.from_numpy(values[::-1].copy()), torch.from_numpy(vectors[:, ::-1].copy())
    return values.clamp(min=0).to(matrix.device), vectors.to(matrix.device)


def make_gram(width: int, exact_up_to: int, sketch_rows: int, like: Tensor) -> Gram | Sketch:
    """An empty sum of G G^T: exact up to a width of `exact_up_to`, else a sketch of `sketch_rows` rows."""
    return Gram.empty(width, like) if width <= exact_up_to else Sketch.empty(width, sketch_rows, like)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32
