"""Replay: some old images are kept and learnt along with every new task, beside the losses of any base method.

How good could memory be? Most methods of this toolkit keep no image; this one is to compare them with.
"""

from dataclasses import dataclass, field
from typing import Any, Generic

from torch import Tensor, nn

from css.config.settings import NoOptions, RunConfig
from css.losses import cross_entropy
from css.method.contract import Method
from css.method.wrapper import BaseT, Wrapper
from css.model.segmenter import Segmenter
from css.system.tensors import part, prefixed
from css.training.trainer import Losses, Trainer
from plop_baseline.memory import EpisodicMemory, require_memory
from tasks import Task


@dataclass(frozen=True)
class ReplayOptions(Generic[BaseT]):
    """The memory, and how much of it a step learns along."""

    memory: int = 50
    """Images of every task that are kept, at most."""
    batch: int = 8
    """Kept images that are learnt along in every step, in a forward pass of their own (one for each part of a batch
    that --train.accumulate divides)."""
    base: BaseT = field(default_factory=NoOptions)  # type: ignore[assignment]


class Replay(Wrapper):
    """Kept images count with the labels of all classes seen so far."""

    suffix = "replay"
    Options = ReplayOptions
    summary = "learns kept images of earlier tasks along with every new one; keeps images"

    def __init__(self, options: Any, base: Method) -> None:
        super().__init__(options, base)
        self.memory = EpisodicMemory()

    def check(self, config: RunConfig) -> None:
        """Raises InputError for an empty memory, or fewer than two kept images in a step."""
        super().check(config)
        require_memory(self.options.memory, self.options.batch, self.flag)

    def objective(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> Losses:
        """The base's losses, and the cross-entropy of kept images ("replay")."""
        losses = self.base.objective(task, model, teacher, trainer)

        def with_kept_images(forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            kept, their_labels = self.memory.draw(task, None, self.options.batch, trainer)
            replay = cross_entropy(model(model.normalise(kept)).logits, their_labels)
            return losses(forward, images, labels) | {"replay": replay}

        return with_kept_images

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """As the base; then images of this task join the memory."""
        super().finish(task, model, trainer)
        self.memory.add(task, self.options.memory, trainer.config.seed)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the base, and the places of the kept images as kept.memory.TASK."""
        return super().tensors() | prefixed(kept=self.memory.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Gives the base its own, and takes back the places of the kept images."""
        super().load_tensors(tensors)
        self.memory = EpisodicMemory.from_tensors(part(tensors, "kept"))
