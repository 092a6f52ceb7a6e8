"""BatchNorm: groups of a fixed number of images, so that one process can reproduce several; held while others train."""

import contextlib
import functools
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from css.config.settings import BatchNormMode


class _Grouped(nn.BatchNorm2d):
    """Batch statistics over each `group` consecutive images instead of over the whole batch. Input (B, C, H, W).

    In training, one process with B images and groups of B / w normalises exactly as w processes with B / w images
    each and unsynchronised BatchNorm. Running statistics follow the first group alone, as DistributedDataParallel
    keeps those of its first process. In evaluation nothing is changed.
    """

    group: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalise = super().forward
        if not self.training or len(x) <= self.group:
            return normalise(x)
        first, *others = x.split(self.group)
        normalised, momentum = [normalise(first)], self.momentum
        self.momentum = 0.0  # the other groups leave the running statistics as they are
        normalised += [normalise(part) for part in others]
        self.momentum = momentum
        return torch.cat(normalised)


def group_batch_norm(model: nn.Module, group: int) -> None:
    """Turns every BatchNorm2d of the model into one over groups of `group` images, in place; parameters are kept."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if not isinstance(module, _Grouped):
                module.__class__ = _grouped(type(module))  # type: ignore[arg-type]  # classes do have a hash
            cast("_Grouped", module).group = group


@functools.cache
def _grouped(batch_norm: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    """Also for subclasses: timm's BatchNormAct2d, for one, holds the activation that follows."""
    return type(f"Grouped{batch_norm.__name__}", (_Grouped, batch_norm), {})


@contextlib.contextmanager
def hold(model: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """Inside the block BatchNorm works in this mode.

    It trains as usual ("train"), normalises with its running statistics, which stay as they are ("freeze-stats"), or
    keeps its weight and bias, too ("freeze").
    """
    layers = [] if mode == "train" else [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    held = [p for layer in layers for p in layer.parameters() if mode == "freeze" and p.requires_grad]
    for layer in layers:
        layer.eval()
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
