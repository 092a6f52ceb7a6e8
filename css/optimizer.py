"""The optimiser of a stage, and its state as named tensors."""

import torch
from torch import nn

from css.config import TrainConfig
from tasks import InputError


def make_optimizer(train: TrainConfig, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum over every trainable parameter."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = {
        "lr": lr,
        "momentum": train.momentum,
        "weight_decay": train.weight_decay,
        "nesterov": train.momentum > 0,
    }
    if train.optimizer == "apex":
        return _apex_sgd(parameters, settings)
    return torch.optim.SGD(parameters, **settings, fused=True)


def require_optimizer(train: TrainConfig) -> None:
    """Raises InputError if the optimiser is not installed or does not work here."""
    make_optimizer(train, nn.Linear(1, 1), train.lr)


def _apex_sgd(parameters: list[nn.Parameter], settings: dict) -> torch.optim.Optimizer:
    try:
        from apex.optimizers import FusedSGD

        return FusedSGD(parameters, **settings)  # a RuntimeError if apex was built without its CUDA extensions
    except (ImportError, RuntimeError):
        raise InputError(
            "--train.optimizer apex needs NVIDIA's apex, which is not on PyPI (the package of that name there is "
            "unrelated): build it from github.com/NVIDIA/apex with its CUDA extensions, or leave the option out "
            "for torch's own fused SGD."
        ) from None


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
