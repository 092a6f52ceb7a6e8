"""Projection of what an optimiser does, and of the total change of a stage."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from css.nullspace.layers import groups_of, layers_of, rows_of, split_rows
from css.nullspace.projector import Projector

Projected = tuple[nn.Parameter, nn.Parameter | None, Projector, int]  # weight, bias, projector, groups


def for_parameters(model: nn.Module, projectors: Mapping[str, Projector]) -> list[Projected]:
    """Projectors beside the parameters they belong to; layers without one, and identities, are left out."""
    return [
        (layer.weight, layer.bias, projectors[name], groups_of(layer))
        for name, layer in layers_of(model).items()
        if name in projectors and not projectors[name].is_identity
    ]


class project_updates:
    """From now on every step of the optimiser moves the weights within their free directions only (Eq. 6).

    The *update* is projected, after momentum, weight decay or Adam's scaling: a projected gradient would leave the
    space again there. Nothing is kept from step to step. `remove()` ends it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, projected: Iterable[Projected]):
        self._projected, self._before = list(projected), []
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._project),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _remember(self, *_: object) -> None:
        self._before = [
            (weight.clone(), None if bias is None else bias.clone()) for weight, bias, _, _ in self._projected
        ]

    @torch.no_grad()
    def _project(self, *_: object) -> None:
        for (weight, bias, project, groups), (old_weight, old_bias) in zip(self._projected, self._before, strict=True):
            _move(weight, bias, old_weight, old_bias, project, groups)
        self._before = []


@torch.no_grad()
def project_total(start: Mapping[str, Tensor], model: nn.Module, projectors: Mapping[str, Projector]) -> None:
    """W <- W_start + (W - W_start) U U^T (Eq. 6 and 7 read literally): removes what rounding has added up.

    `start`: state dict at the beginning of the stage. In place.
    """
    for name, layer in layers_of(model).items():
        if name in projectors and not projectors[name].is_identity:
            bias = None if layer.bias is None else start[f"{name.removesuffix('weight')}bias"]
            _move(layer.weight, layer.bias, start[name], bias, projectors[name], groups_of(layer))


def _move(weight: Tensor, bias: Tensor | None, old_weight: Tensor, old_bias: Tensor | None, project: Projector,
          groups: int) -> None:  # fmt: skip
    """weight = old_weight + projected (weight - old_weight), and the bias with it."""
    update = rows_of(weight - old_weight, None if bias is None else bias - old_bias, groups)
    weight_update, bias_update = split_rows(project(update), weight, bias)
    weight.copy_(old_weight + weight_update)
    if bias is not None:
        bias.copy_(old_bias + bias_update)
