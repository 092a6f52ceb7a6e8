"""Deviations of BatchNorm statistics in every layout and precision; the formulas: test_oracle_deepinversion."""

import pytest
import torch

from css.dream.priors import deviation

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def plain(x, mean, variance):
    dimensions = [d for d in range(x.dim()) if d != 1]
    return (x.mean(dimensions) - mean).norm(), (x.var(dimensions, unbiased=False) - variance).norm()


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (7, 3), (1, 3)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_value_and_gradient(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + 2).to(dtype)
    mean, variance = torch.randn(3, generator=generator), torch.rand(3, generator=generator) + 1
    for layout in {torch.contiguous_format, torch.channels_last if x.dim() == 4 else torch.contiguous_format}:
        ours, reference = (y.detach().clone(memory_format=layout).requires_grad_() for y in (x, x.double()))
        found = deviation(ours, *((mean, variance) if dtype != torch.float64 else (mean.double(), variance.double())))
        wanted = plain(reference, mean.double(), variance.double())
        for value, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(value.double(), theirs, rtol=TOLERANCE[dtype], atol=1e-6)
            (gradient,) = torch.autograd.grad(value, ours, retain_graph=True)
            (their_gradient,) = torch.autograd.grad(theirs, reference, retain_graph=True)
            assert gradient.dtype == dtype
            torch.testing.assert_close(gradient.double(), their_gradient, rtol=TOLERANCE[dtype], atol=1e-6)


def test_variance_far_from_zero_is_not_lost_in_single_precision():
    """The mean of the squares minus the square of the mean would be wrong in the first digit here."""
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 3000
    reference = plain(x.double(), torch.zeros(3), torch.zeros(3))[1]
    assert deviation(x, torch.zeros(3), torch.zeros(3))[1].item() == pytest.approx(reference.item(), rel=1e-3)
    squares = x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()
    assert squares.norm().item() != pytest.approx(reference.item(), rel=1e-1)
