"""The optimiser of a stage, and its groups of parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from css.config.settings import TrainConfig
from tasks import InputError


def make_optimizer(
    train: TrainConfig, model: nn.Module, lr: float, rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or Adam, over every trainable parameter. Each group keeps its `initial_lr`.

    `rates`: factors of the learning rate by the beginning of the names of parameters; the longest one counts.
    """
    groups = _groups(train, model, lr, rates or {})
    if train.optimizer == "adam":
        return torch.optim.Adam(groups, lr, weight_decay=train.weight_decay)
    settings: dict[str, Any] = {
        "lr": lr,
        "momentum": train.momentum,
        "weight_decay": train.weight_decay,
        "nesterov": train.momentum > 0,
    }
    if train.optimizer == "apex":
        return _apex_sgd(groups, settings)
    return _watched(torch.optim.SGD(groups, **settings, fused=True))


def _watched(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Its first step checks the memory layout of gradients and restored state before, of new state after."""
    checked = False

    def before(*_: Any) -> None:
        if not checked:
            require_one_layout(optimizer)

    def after(*_: Any) -> None:
        nonlocal checked
        before()
        checked = True

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    return optimizer


def require_one_layout(optimizer: torch.optim.Optimizer) -> None:
    """Raises RuntimeError unless gradient and state of every parameter lie in memory as the parameter does.

    Fused optimisers walk through all of them in step, whatever their strides: another layout gives wrong updates
    without an error.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            tensors = {"its gradient": parameter.grad, **optimizer.state.get(parameter, {})}
            for name, value in tensors.items():
                if isinstance(value, Tensor) and value.dim() and _order(value) != _order(parameter):
                    raise RuntimeError(
                        f"a parameter of shape {tuple(parameter.shape)} has strides {parameter.stride()}, but {name} "
                        f"has shape {tuple(value.shape)} and strides {value.stride()}; a fused step would be wrong"
                    )


def _order(tensor: Tensor) -> list[tuple[int, int]]:
    """Size and stride of every dimension that has a stride to speak of."""
    return [pair for pair in zip(tensor.shape, tensor.stride(), strict=True) if pair[0] > 1]


def _groups(train: TrainConfig, model: nn.Module, lr: float, rates: Mapping[str, float]) -> list[dict]:
    """All trainable parameters, those of one learning rate and weight decay together.

    Classifiers with a rate of their own have no weight decay (as in Adam-NSCL).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    norms = {id(p) for layer in model.modules() if isinstance(layer, _BatchNorm) for p in layer.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate, decay = lr, train.weight_decay
            if train.classifier_lr is not None and name.startswith("classifiers."):
                rate, decay = train.classifier_lr, 0.0
            elif train.batch_norm_lr is not None and id(parameter) in norms:
                rate = train.batch_norm_lr
            groups.setdefault((rate * _factor(name, rates), decay), []).append(parameter)
    return [
        {"params": found, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), found in groups.items()
    ]


def _factor(name: str, rates: Mapping[str, float]) -> float:
    prefixes = [prefix for prefix in rates if name.startswith(prefix)]
    return rates[max(prefixes, key=len)] if prefixes else 1.0


def require_optimizer(train: TrainConfig) -> None:
    """Raises InputError if the optimiser is not installed or does not work here."""
    make_optimizer(train, nn.Linear(1, 1), train.lr)


def _apex_sgd(groups: list[dict], settings: dict) -> torch.optim.Optimizer:
    try:
        from apex.optimizers import FusedSGD

        return FusedSGD(groups, **settings)  # a RuntimeError if apex was built without its CUDA extensions
    except (ImportError, RuntimeError):
        raise InputError(
            "--train.optimizer apex needs NVIDIA's apex, which is not on PyPI (the package of that name there is "
            "unrelated): build it from github.com/NVIDIA/apex with its CUDA extensions, or leave the option out "
            "for torch's own fused SGD."
        ) from None
