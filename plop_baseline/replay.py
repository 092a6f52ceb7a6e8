"""Replay: some old images are kept and learnt along with every new task, beside the losses of any base method.

How good could memory be? The methods of this toolkit keep no image; this one is to compare them with.
"""

import functools
from dataclasses import dataclass

from css.files import part, prefixed
from css.losses import cross_entropy
from css.method import Method
from css.wrapper import Wrapper, wrap
from plop_baseline.memory import EpisodicMemory, require_room
from tasks import InputError


@dataclass(frozen=True)
class ReplayOptions:
    memory: int = 50
    """Images of every task that are kept."""
    batch: int = 8
    """Kept images that join every step."""


class Replay(Wrapper):
    """Kept images count with the labels of all classes seen so far."""

    Options = ReplayOptions

    def __init__(self, options=None):
        super().__init__(options)
        self.memory = EpisodicMemory()

    def check(self, config):
        super().check(config)
        for name in ("memory", "batch"):
            if getattr(self.options, name) < 1:
                raise InputError(f"--options.{name} {getattr(self.options, name)} must be at least 1.")

    def learn(self, task, model, teacher, trainer):
        require_room(task, self.options.memory)
        super().learn(task, model, teacher, trainer)

    def objective(self, task, model, teacher, trainer):
        losses = self.base.objective(task, model, teacher, trainer)

        def with_kept_images(forward, images, labels):
            kept, their_labels = self.memory.draw(task, None, self.options.batch, trainer)
            replay = cross_entropy(model(model.normalise(kept)).logits, their_labels)
            return losses(forward, images, labels) | {"replay": replay}

        return with_kept_images

    def finish(self, task, model, trainer):
        self.base.finish(task, model, trainer)
        self.memory.add(task, self.options.memory, trainer.config.seed)

    def tensors(self):
        return prefixed(base=self.base.tensors(), kept=self.memory.tensors())

    def load_tensors(self, tensors):
        self.base.load_tensors(part(tensors, "base"))
        self.memory = EpisodicMemory.from_tensors(part(tensors, "kept"))


@functools.cache
def around(base: type[Method]) -> type[Wrapper]:
    return wrap(Replay, base, "replay")
