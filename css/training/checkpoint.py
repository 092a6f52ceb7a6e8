"""What a killed stage goes on from: network and optimiser as named tensors."""

from pathlib import Path

import torch
from torch import nn

from css.model.segmenter import Segmenter
from tasks import InputError


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """State tensors named "optimizer.<parameter>.<entry>"."""
    return {
        f"optimizer.{name}.{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Takes back what `optimizer_tensors` returned, in the memory layout of the parameters.

    The layout matters: other strides take another code path, and results would differ in the last bit.
    """
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            parameter_name, _, entry = name.removeprefix("optimizer.").rpartition(".")
            parameter = parameters[parameter_name]
            like = parameter.detach() if value.shape == parameter.shape else value
            optimizer.state[parameter][entry] = torch.empty_like(like, dtype=value.dtype).copy_(value)


def restore_model(model: Segmenter, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Takes the entries "model.*". Raises InputError if they do not fit the model."""
    state = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise InputError(
            f"{path} holds another network than this run's; delete its folder to train it again."
        ) from None
