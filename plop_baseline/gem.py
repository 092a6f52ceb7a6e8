"""GEM (Lopez-Paz and Ranzato, NIPS 2017): a step may not increase the loss on the memory of any old task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from plop_baseline.a_gem import AGem, MemoryOptions
from tasks import Task

RIDGE = 1e-3  # added to the diagonal of the quadratic programme, as published


@dataclass(frozen=True)
class GemOptions(MemoryOptions):
    """A-GEM's, and the margin of the constraints."""

    margin: float = 0.5
    """How far a correction goes beyond what is needed (memory strength)."""


class Gem(AGem):
    """One constraint per old task where A-GEM has one for all.

    Differs from the published code: the quadratic programme is scaled by its own trace and solved as non-negative least
    squares (`project`).
    """

    Options = GemOptions
    summary = "steps that do not hurt the memory of any old task (NIPS 2017); keeps images"

    def corrected(
        self, gradient: Tensor, task: Task, model: Segmenter, parameters: Sequence[nn.Parameter], trainer: Trainer
    ) -> Tensor:
        """The nearest gradient (n,) that points against that of no old task's memory."""
        references = [
            self.memory_gradient(old, task, model, parameters, trainer) for old in range(len(self.memory.indices))
        ]
        return project(gradient, torch.stack(references), self.options.margin)


def project(gradient: Tensor, references: Tensor, margin: float = 0.0) -> Tensor:
    """The nearest vector to g (n,) that does not point against any row of R (tasks, n); g itself if it does not.

    Dual (Eq. 11 of the paper): min over v >= margin of 1/2 v R R' v + v R g, then g + R' v. Solved as non-negative
    least squares in v - margin.
    """
    products = (references @ gradient).double().cpu().numpy()
    if (products >= 0).all():
        return gradient
    gram = (references @ references.T).double().cpu().numpy()
    scale = np.trace(gram) / len(gram)  # the gradients' own, so that the ridge means the same at any size
    return gradient + references.T @ torch.from_numpy(solve(gram / scale, products / scale, margin)).to(references)


def solve(gram: np.ndarray, products: np.ndarray, margin: float) -> np.ndarray:
    """argmin over v >= margin of 1/2 v'(P + ridge I)v + v'q; P (k, k) positive semi-definite, q (k,)."""
    lower = np.linalg.cholesky(gram + RIDGE * np.eye(len(gram)))
    moved = products + lower @ (lower.T @ np.full(len(gram), margin))
    beyond, _ = scipy.optimize.nnls(lower.T, -np.linalg.solve(lower, moved))
    return beyond + margin
