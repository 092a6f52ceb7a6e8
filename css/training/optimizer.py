"""The optimiser of a stage, and its groups of parameters."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from css.config.settings import TrainConfig
from tasks import InputError


def make_optimizer(train: TrainConfig, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or Adam, over every trainable parameter. Each group keeps its `initial_lr`."""
    groups = _groups(train, model, lr)
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
    return torch.optim.SGD(groups, **settings, fused=True)


def _groups(train: TrainConfig, model: nn.Module, lr: float) -> list[dict]:
    """All trainable parameters as one group, but for classifiers and BatchNorm where they have rates of their own.

    Classifiers with a rate of their own have no weight decay (as in Adam-NSCL).
    """
    parts: dict[str, list[nn.Parameter]] = {"classifiers": [], "batch norm": [], "others": []}
    norms = {id(p) for layer in model.modules() if isinstance(layer, _BatchNorm) for p in layer.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            classifies = train.classifier_lr is not None and name.startswith("classifiers.")
            normalises = train.batch_norm_lr is not None and id(parameter) in norms
            part = "classifiers" if classifies else "batch norm" if normalises else "others"
            parts[part].append(parameter)
    rates = {"classifiers": train.classifier_lr, "batch norm": train.batch_norm_lr, "others": lr}
    groups = [{"params": found, "lr": rates[part], "initial_lr": rates[part]} for part, found in parts.items() if found]
    if parts["classifiers"]:
        groups[0]["weight_decay"] = 0.0
    return groups


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
