"""The layers a null space is defined for, and their weights, biases and inputs as matrices."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def layers_of(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Every convolution and linear layer, by the name of its weight; a shared layer once."""
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def groups_of(layer: nn.Conv2d | nn.Linear) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def input_width(layer: nn.Conv2d | nn.Linear) -> int:
    """C1: inputs of one output channel, and one more for its bias."""
    return layer.weight[0].numel() + (layer.bias is not None)


def rows_of(weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    """A weight (or its gradient, or update) as (groups, C0 / groups, C1); the bias is the last column."""
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    return rows if bias is None else torch.cat([rows, bias.view(groups, -1, 1)], dim=2)


def split_rows(rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The inverse of `rows_of`, in the shapes of `weight` and `bias`."""
    if bias is None:
        return rows.reshape(weight.shape), None
    return rows[..., :-1].reshape(weight.shape), rows[..., -1].reshape(bias.shape)


def input_rows(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """What an output channel sees: (groups, samples x positions, C1), in the order of the weight; 1 for the bias."""
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(1, -1, layer.in_features)
    else:
        patches = _patches(layer, inputs)  # (N, C_in * kh * kw, positions), channel-major as the weight
        rows = patches.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    if isinstance(layer.padding, str):  # "same" or "valid"
        total = [d * (k - 1) if layer.padding == "same" else 0
                 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]  # fmt: skip
        padding = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    else:
        padding = (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, padding, mode=mode)
    return F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
