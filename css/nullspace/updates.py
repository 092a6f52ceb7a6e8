"""Projection of what an optimiser does, and of the total change of a stage."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from css.nullspace.layers import layers_of, rows_of, split_rows
from css.nullspace.projectors import Projector
from tasks import InputError

Projected = tuple[Tensor, Tensor | None, Projector]  # weight, bias


def for_parameters(model: nn.Module, projectors: Mapping[str, Projector]) -> list[Projected]:
    """Weight, bias and projector of every layer that has one; frozen layers, and identities, are left out.

    Raises InputError if either the weight or the bias of a layer is frozen: their projection moves both.
    """
    found = []
    for name, layer in layers_of(model).items():
        if name not in projectors or projectors[name].is_identity:
            continue
        if layer.bias is not None and layer.bias.requires_grad != layer.weight.requires_grad:
            raise InputError(
                f"Either {name} or the bias of the same layer is frozen, but a null-space projector moves both "
                "together; freeze both or none."
            )
        if layer.weight.requires_grad:
            found.append((layer.weight, layer.bias, projectors[name].to(layer.weight)))
    return found


class project_updates:
    """From now on every step of the optimiser moves the weights within their free directions only (Eq. 6).

    The *update* is projected, after momentum, weight decay or Adam's scaling: a projected gradient would leave the
    space again there. What is protected is held where it is now, so rounding does not add up, and nothing changes from
    step to step. A layer without gradient in a step is left alone. `remove()` ends it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, projected: Iterable[Projected]) -> None:
        self._layers = [_Layer(*of_layer) for of_layer in projected]
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def remove(self) -> None:
        """From now on steps are the optimiser's own again."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _before_step(self, *_: object) -> None:
        for layer in self._layers:
            if layer.damping is not None:  # a soft projector shortens an update each time: only that of this step, then
                layer.anchor()

    @torch.no_grad()
    def _after_step(self, *_: object) -> None:
        for layer in self._layers:
            if layer.weight.grad is not None:
                layer.project()


@torch.no_grad()
def project_total(start: Mapping[str, Tensor], model: nn.Module, projectors: Mapping[str, Projector]) -> None:
    """W <- W_start + (W - W_start) U U^T (Eq. 6 and 7 read literally), in place: takes off what the steps have rounded.

    `start`: state dict at the beginning of the stage. Soft projectors have nothing to clean up: each update is
    shortened once.
    """
    names = {id(layer.weight): name for name, layer in layers_of(model).items()}
    for weight, bias, project in for_parameters(model, projectors):
        if project.damping is None:
            name, groups = names[id(weight)], len(project.basis)
            name_of_bias = f"{name.removesuffix('weight')}bias"
            rows = rows_of(weight - start[name], None if bias is None else bias - start[name_of_bias], groups)
            update, update_of_bias = split_rows(project(rows), weight, bias)
            weight.copy_(start[name] + update)
            if bias is not None and update_of_bias is not None:
                bias.copy_(start[name_of_bias] + update_of_bias)


class _Layer:
    """Weight and bias of a layer, and where they started from, as matrices in the order of their memory.

    The basis is brought into that order once, so that a step copies nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, projector: Projector) -> None:
        self.weight, self.bias = weight, bias
        self.holds_free, self.damping = projector.holds_free, projector.damping
        self.channels_last = weight.dim() == 4 and not weight.is_contiguous()  # if it is neither, views of it fail
        inputs = weight[0].numel()
        self.kernel = self._in_memory_order(projector.basis[:, :inputs])
        self.of_bias = projector.basis[:, inputs:]  # (groups, 1, r), or (groups, 0, r) without bias
        self.anchor()

    def anchor(self) -> None:
        """Takes what an update is measured from: coordinates, and the rest where the free directions are stored."""
        rows, column = self._matrices()
        self.anchors = self._coordinates(rows, column)
        self.start = (rows.clone(), column.clone()) if self.holds_free else None

    def project(self) -> None:
        """Moves the layer back along the protected directions, in place."""
        rows, column = self._matrices()
        away = self._coordinates(rows, column) - self.anchors
        if self.damping is not None:
            away *= self.damping
        if self.start is not None:
            torch.baddbmm(self.start[0], away, self.kernel.mT, out=rows)
            column.copy_(self.start[1] + away @ self.of_bias.mT)
        else:
            rows.baddbmm_(away, self.kernel.mT, alpha=-1)
            column -= away @ self.of_bias.mT

    def _coordinates(self, rows: Tensor, column: Tensor) -> Tensor:
        return torch.baddbmm(column @ self.of_bias, rows, self.kernel)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        """Views of the weight (groups, C0 / groups, inputs) and of the bias (groups, C0 / groups, 0 or 1)."""
        groups, weight = len(self.kernel), self.weight.detach()
        rows = weight.permute(0, 2, 3, 1) if self.channels_last else weight
        column = weight.new_empty(len(weight), 0) if self.bias is None else self.bias.detach()[:, None]
        shape = groups, len(weight) // groups
        return rows.view(*shape, weight[0].numel()), column.view(*shape, column.shape[1])

    def _in_memory_order(self, kernel: Tensor) -> Tensor:
        """Bases (groups, inputs, r), channel-major, with rows in the order in which the weight lies in memory."""
        if not self.channels_last:
            return kernel
        return kernel.unflatten(1, self.weight.shape[1:]).permute(0, 2, 3, 1, 4).flatten(1, 3)
