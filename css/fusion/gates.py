"""Which parameters share the gate of an output channel, and networks made of gated means."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from css.model.state import evaluating

_RUNNING = ("running_mean", "running_var")
_BATCH_NORM = ("weight", "bias", *_RUNNING)


def gate_groups(model: nn.Module, example: Tensor) -> dict[str, list[str]]:
    """Gate -> entries of the state dict that share it, one number per output channel.

    A gate has the name of a convolution or linear layer, and holds its weight and bias, and all of the BatchNorm whose
    input *is* that layer's output, as one forward pass of `example` (a batch of the model's inputs) shows. A BatchNorm
    after anything else has a gate of its own.
    """
    made_by: dict[int, str] = {}
    groups: dict[str, list[str]] = {}
    outputs = []  # kept until the end, so that no two tensors have the same id

    def convolved(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, _: object, output: Tensor) -> None:
            made_by[id(output)] = name
            outputs.append(output)
            own = [f"{name}.{entry}" for entry in ("weight", "bias") if getattr(layer, entry) is not None]
            groups.setdefault(name, own)  # a layer may be called more than once

        return hook

    def normalised(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            own = [f"{name}.{entry}" for entry in _BATCH_NORM if getattr(layer, entry) is not None]
            groups.setdefault(made_by.get(id(inputs[0]), name), []).extend(own)

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(convolved(name)))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(normalised(name)))
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return groups


def by_entry(groups: Mapping[str, list[str]], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gates of all entries of the state dict, from those of the groups."""
    return {entry: gates[gate] for gate, entries in groups.items() if gate in gates for entry in entries}


def interpolate(
    slow: Mapping[str, Tensor], fast: Mapping[str, Tensor], gates: Mapping[str, Tensor | float]
) -> dict[str, Tensor]:
    """State dict A * slow + (1 - A) * fast (Split2MetaFusion, Eq. 10 and 15); differentiable in the gates.

    `gates`: by entry, one number per output channel (the first dimension) or one for all. 1 gives slow and 0 gives
    fast, to the bit. Entries without a gate, and counters, come from fast.
    """

    def mean(name: str, quick: Tensor) -> Tensor:
        if name not in gates or not quick.is_floating_point():
            return quick
        a = torch.as_tensor(gates[name], dtype=quick.dtype, device=quick.device)
        if a.dim():
            a = a.view(-1, *[1] * (quick.dim() - 1))
        return torch.lerp(quick, slow[name], a)  # one pass over the weights, where the formula as written takes three

    return {name: mean(name, value) for name, value in fast.items()}


def with_constant_statistics(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function of the input and the gates, for a network in evaluation mode, as PyTorch can differentiate it.

    PyTorch has no gradient for running statistics m, v. What they owe to the gates moves into weight w and bias b of
    their BatchNorm: w (x - m) / sqrt(v + eps) + b = w' (x - m0) / sqrt(v0 + eps) + b' with constants m0, v0 of the same
    value. A BatchNorm without weight and bias has no place for it: its statistics count as constants.
    """
    state = dict(state)
    for name, layer in model.named_modules():
        if not isinstance(layer, _BatchNorm) or not layer.track_running_stats:
            continue
        mean, variance = (state[f"{name}.{entry}"] for entry in _RUNNING)
        state |= {f"{name}.running_mean": mean.detach(), f"{name}.running_var": variance.detach()}
        if layer.affine and mean.requires_grad:
            scale = state[f"{name}.weight"] / (variance + layer.eps).sqrt()
            state[f"{name}.weight"] = scale * (variance.detach() + layer.eps).sqrt()
            state[f"{name}.bias"] = state[f"{name}.bias"] + scale * (mean.detach() - mean)
    return state


def linear(slow: Mapping[str, Tensor], fast: Mapping[str, Tensor], alpha: float,
           keep_fast: tuple[str, ...] = ()) -> dict[str, Tensor]:  # fmt: skip
    """alpha * slow + (1 - alpha) * fast (Connector; Eq. 14); entries that begin with one of `keep_fast` from fast."""
    return interpolate(slow, fast, {name: alpha for name in fast if not name.startswith(keep_fast)})
