"""Replay: some old images are kept and learnt along with every new task, beside the losses of any base method.

How good could memory be? Most methods of this toolkit keep no image; this one is to compare them with.
"""

from dataclasses import dataclass, field
from typing import Any, Generic

from css.config.settings import NoOptions
from css.losses import cross_entropy
from css.method.contract import Method
from css.method.wrapper import BaseT, Wrapper
from css.system.tensors import part, prefixed
from plop_baseline.memory import EpisodicMemory, check_memory


@dataclass(frozen=True)
class ReplayOptions(Generic[BaseT]):
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

    def check(self, config) -> None:
        super().check(config)
        check_memory(self.options.memory, self.options.batch, self.flag)

    def objective(self, task, model, teacher, trainer):
        losses = self.base.objective(task, model, teacher, trainer)

        def with_kept_images(forward, images, labels):
            kept, their_labels = self.memory.draw(task, None, self.options.batch, trainer)
            replay = cross_entropy(model(model.normalise(kept)).logits, their_labels)
            return losses(forward, images, labels) | {"replay": replay}

        return with_kept_images

    def finish(self, task, model, trainer) -> None:
        super().finish(task, model, trainer)
        self.memory.add(task, self.options.memory, trainer.config.seed)

    def tensors(self):
        return super().tensors() | prefixed(kept=self.memory.tensors())

    def load_tensors(self, tensors) -> None:
        super().load_tensors(tensors)
        self.memory = EpisodicMemory.from_tensors(part(tensors, "kept"))
