"""A small regression with a known null space, for the tests of css.nullspace."""

import torch
from torch import nn
from torch.nn import functional as F

from css.nullspace import GradientStatistics

DOUBLE = torch.float64


def mse(model, images, labels):
    return F.mse_loss(model(images), labels)


def regression(samples=12, inputs=9, outputs=4, rank=5, seed=0):
    """A linear layer and data whose inputs span `rank` of the directions only."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, inputs, generator=generator, dtype=DOUBLE)
    x = torch.randn(samples, rank, generator=generator, dtype=DOUBLE) @ basis
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=False, dtype=DOUBLE), x, torch.randn(samples, outputs, dtype=DOUBLE)


def gathered(layer, x, y, group="sample", **settings):
    statistics = GradientStatistics(**settings)
    statistics.collect(layer, [(x, y)], mse, group)
    return statistics
