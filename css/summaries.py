"""Scores of a whole stream from those of its tasks. Reports need no more, so nothing here imports PyTorch."""

from collections.abc import Sequence
from statistics import fmean


def continual_accuracy(matrix: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """ACC and backward transfer of a lower-triangular accuracy matrix A (Lopez-Paz and Ranzato, NIPS 2017, section 2).

    Row t holds the accuracies on tasks 0..t after learning task t. With K tasks, ACC = mean of the last row, and
    BWT = mean over the first K-1 tasks t of A[K-1, t] - A[t, t], in the unit of A; None for a single task.
    Raises ValueError if row t has not t+1 entries.
    """
    if not matrix or any(len(row) != t + 1 for t, row in enumerate(matrix)):
        raise ValueError("The accuracy matrix must have 1, 2, 3, ... entries in its rows.")
    *earlier, last = matrix
    changes = [last[t] - row[t] for t, row in enumerate(earlier)]
    return fmean(last), fmean(changes) if changes else None


def average_over_tasks(values: Sequence[float]) -> float:
    """The `avg` of PLOP's tables: mean over tasks, task 0 included, of the mean IoU over `all` classes seen so far."""
    return fmean(values)
