"""EWC (Kirkpatrick et al., PNAS 2017): important parameters are held near their old values."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from css.config.options import require_values
from css.config.settings import RunConfig
from css.losses import cross_entropy
from css.method.contract import Method, plain_losses
from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from tasks import InputError, Task

# Batches per task: what was there before them weighs 0.1 ** 10 with the published share of the newest batch, and of the
# start value, the same for all elements of a tensor, the normalisation leaves nothing. More would change nothing.
UPDATES = 10


@dataclass(frozen=True)
class EwcOptions:
    """How firmly parameters are held."""

    weight: float = 100.0
    """Weight of the penalty; published: 100 to 500, at a learning rate of 0.001 (500 diverges above 0.0013)."""
    alpha: float = 0.9
    """Share of the newest batch in the importance."""


class Ewc(Method):
    """The importance is measured when a task ends, on training batches, in evaluation mode and full precision.

    The official code measures it at every step of the training, of which its moving average keeps the last few; those
    see the batch statistics and, unlike these, weights that still move. Measured at the end, the importance needs
    nothing but the finished model, which may come from another run (--task0).
    """

    Options = EwcOptions
    summary = "penalty on the change of important parameters (PNAS 2017)"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.importance = Importance()

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a share that is none, or a weight with which SGD diverges.

        The most important parameter of a tensor has importance 1, and the penalty there the curvature 2 * weight.
        """
        alpha = self.options.alpha
        require_values(self.options, self.flag, {"alpha": (0 < alpha <= 1, "above 0, at most 1")})
        momentum, lr = config.train.momentum, config.train.later_lr
        limit = (1 + momentum) / (1 + 2 * momentum) / lr if lr else math.inf  # of SGD with Nesterov momentum
        if not 0 <= self.options.weight < limit:
            raise InputError(
                f"{self.flag}.weight {self.options.weight:g} of ewc must be at least 0 and below {limit:.4g}, where "
                f"SGD with --train.later-lr {lr:g} diverges: change one of them."
            )

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Parameters are held where the task starts.

        That is at the teacher's, but for the bias of the background, which the balanced initialisation has just moved.
        """
        self.held = {name: value.to(trainer.processes.device) for name, value in self.importance.normalised().items()}
        self.new = dict(model.named_parameters())
        self.old = {name: self.new[name].detach().clone() for name in self.held}

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy, and the weighted penalty (`penalty`) from where the task started."""
        return plain_losses(forward, images, labels) | {
            "penalty": self.options.weight * penalty(self.new, self.old, self.held)
        }

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Measures the importance of the parameters for this task on UPDATES training batches."""
        model.eval()  # keeps the running statistics, and makes the images of a batch independent
        for images, labels in importance_batches(task, model, trainer):
            self.importance.update(mean_gradients(model, images, labels, trainer, cross_entropy), self.options.alpha)

    def tensors(self) -> dict[str, Tensor]:
        """The importance so far, by parameter name."""
        return self.importance.fisher

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back the importance."""
        self.importance = Importance(tensors)


class Importance:
    """Moving average of the squared gradients of every parameter, F <- alpha g^2 + (1 - alpha) F from F = 1.

    `fisher` holds F by parameter name. g is the gradient of the mean loss of a batch, not of single images, as in the
    official code of MiB and PLOP, from which the average, its start and the normalisation come.
    """

    def __init__(self, fisher: Mapping[str, Tensor] | None = None) -> None:
        self.fisher = dict(fisher or {})

    def update(self, gradients: Mapping[str, Tensor], alpha: float) -> None:
        """One batch, whose share is alpha. Parameters not seen before start at 1, those without a gradient stay."""
        for name, gradient in gradients.items():
            before = self.fisher.get(name, torch.ones_like(gradient)).to(gradient.device)
            self.fisher[name] = alpha * gradient.square() + (1 - alpha) * before

    def normalised(self) -> dict[str, Tensor]:
        """(F - min F) / (max F - min F + 1e-8), for each tensor by itself."""
        return {name: (f - f.min()) / (f.max() - f.min() + 1e-8) for name, f in self.fisher.items()}


def penalty(
    parameters: Mapping[str, Tensor], old_parameters: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """Sum over all named in `importance` of importance * (parameter - old parameter)^2, a scalar.

    Source: EWC, Eq. 3, without its factor 1/2, as in the official code of MiB and PLOP.
    """
    terms = [(held * (parameters[name] - old_parameters[name]).square()).sum() for name, held in importance.items()]
    return torch.stack(terms).sum()


def importance_batches(task: Task, model: Segmenter, trainer: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    """UPDATES training batches, in as many passes as a small task needs."""
    done = 0
    while done < UPDATES:
        for batch in trainer.passes(task, model, f"importance {done}", UPDATES - done):
            done += 1
            yield batch


@torch.enable_grad()
def mean_gradients(model: Segmenter, images: Tensor, labels: Tensor, trainer: Trainer,
                   loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of loss(logits, labels), a mean over images, over the batch of all processes.

    The model must be in evaluation mode: then parts of a batch add up exactly. They are half as large as in training,
    because full precision, in which no small gradient is lost, may need twice the memory.
    """
    processes, parts = trainer.processes, 2 * trainer.config.train.accumulate
    model.zero_grad()
    for some_images, some_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        value = loss(model(some_images).logits, some_labels)
        (value * len(some_images) / len(images)).backward()
    gradients = {
        name: processes.sum(parameter.grad.contiguous()) / processes.world
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return gradients
