"""A-GEM (Chaudhry et al., ICLR 2019): a step may not increase the mean loss on a memory of old images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from css.config.settings import RunConfig
from css.losses import cross_entropy
from css.method.contract import Method, plain_losses
from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from plop_baseline.memory import EpisodicMemory, require_memory
from tasks import Task


@dataclass(frozen=True)
class MemoryOptions:
    """The memory of A-GEM, of GEM, and how much of it a step looks at."""

    memory: int = 100
    """Images of every task that are kept, at most."""
    batch: int = 32
    """Kept images that are looked at in every step (GEM: of every task)."""


class AGem(Method):
    """Keeps images of old tasks (`--options.memory`, told in the results).

    The gradient is corrected between the backward pass and the optimiser's step; what the optimiser makes of it
    (momentum, weight decay) is not, as in the published code.
    """

    Options = MemoryOptions
    summary = "steps that do not hurt a memory of old images, on average (ICLR 2019); keeps images"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.memory = EpisodicMemory()

    def check(self, config: RunConfig) -> None:
        """Raises InputError for an empty memory, or fewer than two kept images in a step."""
        require_memory(self.options.memory, self.options.batch, self.flag)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Fits the cross-entropy; before every step of the optimiser the gradient is corrected."""

        def watch(optimizer: torch.optim.Optimizer) -> None:
            optimizer.register_step_pre_hook(lambda *_: self._correct(task, model, trainer))

        trainer.fit(model, task, self.objective(task, model, teacher, trainer), on_optimizer=watch)

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of the new images alone, as "ce": the memory acts on the gradient."""
        return plain_losses(forward, images, labels)

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Images of this task join the memory."""
        self.memory.add(task, self.options.memory, trainer.config.seed)

    def tensors(self) -> dict[str, Tensor]:
        """The places of the kept images in the data set, int64, by task."""
        return self.memory.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back the places of the kept images."""
        self.memory = EpisodicMemory.from_tensors(tensors)

    def _correct(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
        gradient = _flat([p.grad for p in parameters if p.grad is not None])
        _set(parameters, self.corrected(gradient, task, model, parameters, trainer))

    def corrected(self, gradient: Tensor, task: Task, model: Segmenter, parameters: Sequence[nn.Parameter],
                  trainer: Trainer) -> Tensor:  # fmt: skip
        """What becomes of the gradient, both as one vector."""
        return turned_away(gradient, self.memory_gradient(None, task, model, parameters, trainer))

    @torch.enable_grad()
    def memory_gradient(self, of: int | None, task: Task, model: Segmenter, parameters: Sequence[nn.Parameter],
                        trainer: Trainer) -> Tensor:  # fmt: skip
        """Of the mean loss on kept images of one earlier task (None: of all), as one vector."""
        pixels, labels = self.memory.draw(task, of, self.options.batch, trainer)
        with trainer.autocast():
            loss = cross_entropy(model(model.normalise(pixels)).logits, labels)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return _flat([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])


def turned_away(gradient: Tensor, reference: Tensor) -> Tensor:
    """g if g.r >= 0, else g - (g.r / r.r) r: the nearest vector that does not point against r (Eq. 11)."""
    dot = gradient @ reference
    return gradient if dot >= 0 else gradient - dot / (reference @ reference) * reference


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])


def _set(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        assert parameter.grad is not None  # those without are left out
        parameter.grad.copy_(part.view(parameter.shape))
