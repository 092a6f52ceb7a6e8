"""MAS (Aljundi et al., ECCV 2018): parameters are held by how much the network's answer depends on them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from css.config.settings import RunConfig
from css.losses import upsample
from css.method.contract import Method, plain_losses
from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from plop_baseline.ewc import UPDATES, importance_batches, mean_gradients, penalty
from tasks import InputError, Task


@dataclass(frozen=True)
class MasOptions:
    """How firmly parameters are held."""

    weight: float = 100.0
    """Weight of the penalty; the most important parameter has importance 1."""


class Mas(Method):
    """The importance of a parameter is the mean absolute gradient of the squared norm of the answer, summed over tasks.

    The answer is taken after the soft-max: before it, only differences of logits mean anything (a network with several
    heads returns log-probabilities). The gradient is that of a batch, as for EWC here, not of single images.
    """

    Options = MasOptions
    summary = "penalty on the change of parameters the answer depends on (ECCV 2018)"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.importance: dict[str, Tensor] = {}

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a weight that is negative or not finite."""
        if not 0 <= self.options.weight < float("inf"):
            raise InputError(f"{self.flag}.weight {self.options.weight:g} of mas must be a number of at least 0.")

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Parameters are held where the task starts; their importance is scaled to a maximum of 1."""
        largest = max(value.max().item() for value in self.importance.values()) or 1.0  # all 0: nothing is held
        self.held = {name: value.to(trainer.processes.device) / largest for name, value in self.importance.items()}
        self.new = dict(model.named_parameters())
        self.old = {name: self.new[name].detach().clone() for name in self.held}

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy, and the weighted penalty (`plop_baseline.ewc.penalty`)."""
        return plain_losses(forward, images, labels) | {
            "penalty": self.options.weight * penalty(self.new, self.old, self.held)
        }

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Adds the importance of the parameters for this task, a mean over UPDATES training batches."""
        model.eval()  # keeps the running statistics, and makes the images of a batch independent
        for images, labels in importance_batches(task, model, trainer):
            for name, gradient in mean_gradients(model, images, labels, trainer, squared_norm).items():
                before = self.importance.get(name, torch.zeros_like(gradient))
                self.importance[name] = before.to(gradient.device) + gradient.abs() / UPDATES

    def tensors(self) -> dict[str, Tensor]:
        """The importance summed over tasks, by parameter name."""
        return self.importance

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back the importance."""
        self.importance = dict(tensors)


def squared_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over images and pixels of the squared norm of the soft-max; the labels only tell the size."""
    return upsample(logits, labels).softmax(1).square().sum(1).mean()
