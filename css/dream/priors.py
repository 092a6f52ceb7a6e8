"""What makes an image likely without seeing one: BatchNorm statistics and smoothness (DeepInversion, CVPR 2020)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

FULL_SUPPORT = 1024  # values per channel from which on batch statistics are trusted fully
_SMALL = 1e-12  # added to a variance before its root is inverted, which may be 0


def deviation(x: Tensor, running_mean: Tensor, running_var: Tensor) -> tuple[Tensor, Tensor]:
    """|mean(x) - running_mean|_2 and |var(x) - running_var|_2: norms over channels, not squared.

    x (N, C, ...): the *input* of a BatchNorm. Mean and biased variance over batch and positions. Eq. 9 of
    Split2MetaFusion writes (l_i(X) - mu_i)^2; taken for each value by itself this would be the variance of x plus the
    squared difference of the means, and drive x to a constant.
    """
    mean, variance = _BatchMoments.apply(x)
    return (mean - running_mean).norm(), (variance - running_var).norm()


class _BatchMoments(torch.autograd.Function):
    """Mean and biased variance per channel of x (N, C, ...), in float32 or x's own float64.

    By BatchNorm's own kernel: PyTorch's `var` over the dimensions of a channels-last map, and what autograd keeps for
    it, took more than half of a step of dreaming (benchmarks/dreams.py). The gradient needs x alone:
    (d_mean + 2 d_variance (x - mean)) / count.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        affine = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))  # its type is the result's
        _, mean, inverse = torch.native_batch_norm(x, affine, affine, None, None, True, 0.0, _SMALL)
        ctx.save_for_backward(x, mean)
        return mean, inverse.square().reciprocal()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = 2 * of_variance / count
        offset = of_mean / count - slope * mean
        per_channel = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(offset.view(per_channel), x, slope.view(per_channel)).to(x.dtype)


def total_variation(images: Tensor) -> Tensor:
    """Sum over four directions (right, down, both diagonals) of the norm of the differences of neighbours, N images."""
    return sum(difference.norm() for difference in _differences(images))


def mean_norm(images: Tensor) -> Tensor:
    """Mean over the images of their Euclidean norm."""
    return images.flatten(1).norm(dim=1).mean()


def _differences(x: Tensor) -> tuple[Tensor, ...]:
    return (x[..., :-1] - x[..., 1:], x[..., :-1, :] - x[..., 1:, :],
            x[..., :-1, 1:] - x[..., 1:, :-1], x[..., :-1, :-1] - x[..., 1:, 1:])  # fmt: skip


class BatchNormMatch:
    """Inside the block every forward pass leaves what `take` returns; the hooks are gone afterwards.

    The deviation of the means, and of the variances if wanted, each relative to the size of the layer's own statistics
    (the spread |running_var|^(1/2), the variances |running_var|_2), mean over the layers: without a unit, so one weight
    serves all networks. A layer that sees few values per channel, as ASPP's pooled branch (one per image), has
    statistics of little meaning and counts in proportion.
    """

    def __init__(self, model: nn.Module, variance: bool) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self.variance = variance
        self._terms: list[Tensor] = []

    def __enter__(self) -> "BatchNormMatch":
        self._hooks = [layer.register_forward_pre_hook(self._measure) for layer in self.layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def take(self) -> Tensor | float:
        """The mean over the layers since the last call; 0 if there are none."""
        terms, self._terms = self._terms, []
        return sum(terms) / len(terms) if terms else 0.0

    def _measure(self, layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        assert layer.running_mean is not None and layer.running_var is not None
        of_means, of_variances = deviation(x, layer.running_mean, layer.running_var)
        term = of_means / (layer.running_var.sum() + layer.eps).sqrt()
        if self.variance:
            term = term + of_variances / (layer.running_var.norm() + layer.eps)
        self._terms.append(min(1.0, x.numel() / x.shape[1] / FULL_SUPPORT) * term)
