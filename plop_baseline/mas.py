"""MAS (Aljundi et al., ECCV 2018): parameters are held by how much the network's answer depends on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from css.losses import upsample
from css.method.contract import Method, plain_losses
from plop_baseline.ewc import UPDATES, importance_batches, mean_gradients, penalty
from tasks import InputError


@dataclass(frozen=True)
class MasOptions:
    weight: float = 100.0
    """Weight of the penalty; the most important parameter has importance 1."""


class Mas(Method):
    """The importance of a parameter is the mean absolute gradient of the squared norm of the answer, summed over tasks.

    The answer is taken after the soft-max: before it, only differences of logits mean anything (a network with several
    heads returns log-probabilities). The gradient is that of a batch, as for EWC here, not of single images.
    """

    Options = MasOptions
    summary = "penalty on the change of parameters the answer depends on (ECCV 2018)"

    def __init__(self, options=None) -> None:
        super().__init__(options)
        self.importance: dict[str, Tensor] = {}

    def check(self, config) -> None:
        if not 0 <= self.options.weight < float("inf"):
            raise InputError(f"{self.flag}.weight {self.options.weight:g} of mas must be a number of at least 0.")

    def prepare(self, task, model, teacher, trainer) -> None:
        largest = max(value.max().item() for value in self.importance.values()) or 1.0  # all 0: nothing is held
        self.held = {name: value.to(trainer.processes.device) / largest for name, value in self.importance.items()}
        self.new = dict(model.named_parameters())
        self.old = {name: self.new[name].detach().clone() for name in self.held}

    def losses(self, task, forward, teacher, images, labels):
        return plain_losses(forward, images, labels) | {
            "penalty": self.options.weight * penalty(self.new, self.old, self.held)
        }

    def finish(self, task, model, trainer) -> None:
        model.eval()  # keeps the running statistics, and makes the images of a batch independent
        for images, labels in importance_batches(task, model, trainer):
            for name, gradient in mean_gradients(model, images, labels, trainer, squared_norm).items():
                before = self.importance.get(name, torch.zeros_like(gradient))
                self.importance[name] = before.to(gradient.device) + gradient.abs() / UPDATES

    def tensors(self):
        return self.importance

    def load_tensors(self, tensors) -> None:
        self.importance = dict(tensors)


def squared_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over images and pixels of the squared norm of the soft-max; the labels only tell the size."""
    return upsample(logits, labels).softmax(1).square().sum(1).mean()
