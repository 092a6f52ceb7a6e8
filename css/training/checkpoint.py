"""What a killed stage goes on from: network and optimiser as named tensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from css.system.tensors import load_tensors, save_tensors
from tasks import InputError


@dataclass
class Stage:
    """One optimisation within a task: what is trained, by what, and the file from which it goes on."""

    name: str
    path: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def resume(self) -> dict[str, Any] | None:
        """Restores the last checkpoint and returns the facts stored with it; None if there is none yet.

        Raises InputError for a damaged file, or one of another network.
        """
        if not self.path.exists():
            return None
        tensors, facts = load_tensors(self.path)
        restore_model(self.model, tensors, self.path)
        restore_optimizer(self.optimizer, self.model, tensors)
        self.scaler.load_state_dict(facts.pop("scaler"))
        return facts

    def save(self, facts: dict[str, Any]) -> None:
        """Writes the checkpoint; `facts` are anything JSON can hold."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, self.model)
        save_tensors(self.path, tensors, facts | {"scaler": self.scaler.state_dict()})

    def set_rates(self, share: float) -> None:
        """Every learning rate at this share of where it started."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share


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


def restore_model(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Takes the entries "model.*". Raises InputError if they do not fit the model."""
    state = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise InputError(
            f"{path} holds another network than this run's; delete its folder to train it again."
        ) from None
