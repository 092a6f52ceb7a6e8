"""The analytic head (CFSSeg, 2024): frozen features, random features, and a ridge classifier in closed form."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.config.options import require_values
from css.config.settings import RunConfig
from css.losses import at_places
from css.method.contract import Method
from css.model.segmenter import FEATURES, Segmenter, SharedFeatures
from css.model.state import evaluating
from css.training.trainer import Trainer
from plop_baseline.ridge import RidgeSums, confident_answers, expanded, random_projection
from tasks import InputError, Task

# Matrices of d x d doubles that live at once: the sums, what a batch adds, the matrix of the equations, its root.
MATRICES = 4


@dataclass(frozen=True)
class AnalyticOptions:
    """Random features, ridge and pseudo labels."""

    features: int = 4096
    """Random features d; published: 8192. Two matrices of d x d doubles are kept (4096: 134 MB each)."""
    gamma: float = 1.0
    """Weight of the ridge."""
    confidence: float = 0.6
    """Background pixels of a later task are taken as the old class with at least this sigmoid (published: 0.6; the
    outputs aim at 0 and 1, so 0.6 is an output of 0.41); above 1: none are."""
    released: bool = False
    """As the released code does: labels from the first pixel of a cell, not from its middle, and pseudo labels from the
    model that is being changed, batch by batch."""


class RidgeHead(SharedFeatures):
    """Answers are a linear function of the random features of what the decoder makes; the classifiers are not asked."""

    projection: Tensor  # (d, D)
    weight: Tensor  # (channels, d)

    def __init__(self, number: int, width: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("projection", random_projection(number, width, seed), persistent=False)
        self.register_buffer("weight", torch.zeros(0, number))

    def forward(
        self, decoder: nn.Module, classifiers: nn.ModuleList, stages: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features (B, 256, h, w) and answers (B, channels, h, w)."""
        features = decoder(stages)
        return features, self.answers(features)

    def answers(self, features: Tensor) -> Tensor:
        """Feature maps (B, D, h, w) to (B, channels, h, w), never below float32."""
        with torch.autocast(features.device.type, enabled=False):
            rows = expanded(features.float().movedim(1, -1), self.projection)
            return F.linear(rows, self.weight).movedim(-1, 1)


class Analytic(Method):
    """After the first task nothing is trained.

    A pass over the images of a task adds to two sums, of which the classifier is a function.
    """

    Options = AnalyticOptions
    segmentation_only = True
    linear, own_head = False, True
    summary = "frozen features, random features and a ridge classifier in closed form (CFSSeg, 2024)"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.sums: RidgeSums | None = None  # of all tasks so far

    def check(self, config: RunConfig) -> None:
        """Raises InputError for values out of range, or more random features than memory."""
        options = self.options
        require_values(options, self.flag, {
            "features": (options.features >= 1, "of at least 1"),
            "gamma": (0 < options.gamma < float("inf"), "above 0"),
            "confidence": (options.confidence > 0, "above 0"),
        })  # fmt: skip
        need, there = MATRICES * 8 * options.features**2, _memory()
        if need > there:
            raise InputError(
                f"{self.flag}.features {options.features} of analytic needs {need / 2**30:.1f} GiB for {MATRICES} "
                f"square matrices, and this machine has {there / 2**30:.1f} GiB: give fewer (4096: 0.5 GiB)."
            )

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """Room for the rows of the new classes, which answer 0 until the task has ended."""
        model.grow(new_classes, init="random")
        if len(model.classifiers) == 1:
            model.head = RidgeHead(self.options.features, FEATURES, 0).to(next(model.parameters()).device)
        head = _head(model)
        head.weight = F.pad(head.weight, (0, 0, 0, len(model.classes) - len(head.weight)))

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Plain classifiers, which the ridge classifier then takes the place of."""
        head, model.head = model.head, SharedFeatures()
        super().learn_first(task, model, trainer)
        model.head = head

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Nothing but what `finish` does."""

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """The images of the task are looked at once, and the classifier is solved for anew."""
        found = trainer.once("ridge", lambda: self._look(task, model, trainer))
        self.sums = RidgeSums(found["square"], found["cross"])
        self._solve(_head(model), self.sums)

    @torch.no_grad()
    def _look(self, task: Task, model: Segmenter, trainer: Trainer) -> dict[str, Tensor]:
        """The sums of all tasks after this one; every process looks at its share of the images."""
        own, options, head = RidgeSums.empty(self.options.features), self.options, _head(model)
        for images, labels in trainer.passes(task, model, "ridge"):
            with evaluating(model), trainer.autocast():
                features = model(images).features.float()
            targets = self._targets(task, head, features, labels)
            rows = expanded(features.movedim(1, -1).flatten(0, 2), head.projection)
            own.update(rows, targets.flatten(), len(task.seen_classes))
            if options.released:
                self._solve(head, self._together(own, trainer))
        total = self._together(own, trainer)
        return {"square": total.square, "cross": total.cross}

    def _targets(self, task: Task, head: RidgeHead, features: Tensor, labels: Tensor) -> Tensor:
        """The labels at the places of the features (B, h, w), with what the model is sure of on background."""
        options = self.options
        if task.index and options.confidence <= 1:
            outputs = head.answers(features)
            asked = outputs if options.released else outputs[:, : len(task.old_classes)]
            labels = confident_answers(asked, labels, options.confidence)
        return _first_pixels(labels, features) if options.released else at_places(labels, features.shape[-2:])

    def _together(self, own: RidgeSums, trainer: Trainer) -> RidgeSums:
        total = RidgeSums(trainer.processes.sum(own.square), trainer.processes.sum(own.cross))
        if self.sums is not None:
            total.add(self.sums)
        return total

    def _solve(self, head: RidgeHead, sums: RidgeSums) -> None:
        head.weight = sums.weight(self.options.gamma).T.to(head.weight)

    def tensors(self) -> dict[str, Tensor]:
        """The two sums."""
        return {} if self.sums is None else {"square": self.sums.square, "cross": self.sums.cross}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes both back."""
        self.sums = RidgeSums(tensors["square"], tensors["cross"])


def _head(model: Segmenter) -> RidgeHead:
    return cast("RidgeHead", model.head)


def _first_pixels(labels: Tensor, features: Tensor) -> Tensor:
    height, width = (of // to for of, to in zip(labels.shape[-2:], features.shape[-2:], strict=True))
    return labels[:, ::height, ::width]


def _memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
