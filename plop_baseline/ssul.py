"""SSUL (Cha et al., NeurIPS 2021): frozen features, a private head for every task, and an unknown class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from css.config.options import require_values
from css.config.settings import RunConfig
from css.losses import upsample
from css.method.contract import Method
from css.model.output import Output
from css.model.segmenter import Segmenter, SharedFeatures
from css.model.state import linear_classifiers, only
from css.training.trainer import Losses, Trainer
from plop_baseline.private_heads import PrivateBodies, all_rows_bce, sure_labels
from plop_baseline.saliency import require_maps, with_rows
from plop_baseline.sigmoid_rows import clear_background, subtract_background
from plop_baseline.unknown_class import KnownAndUnknown
from tasks import InputError, Task

BACKGROUND_RATE = 1e-4  # of the background's head in later tasks: published 1e-6 where the others have 0.01
MOST_ROWS = 255  # in a mask beside void: unknown, background, classes


@dataclass(frozen=True)
class SsulOptions:
    """The pseudo labels, the unknown class, and how the first task is learnt."""

    threshold: float = 0.7
    """Background pixels are taken as the old class with at least this probability."""
    unknown: str = "none"
    """A folder with a saliency map of every training image, IMAGE.png, black where there is no object: background on an
    object is the class "unknown", from which new heads start. none: no such class (an ablation)."""
    first: Literal["ce", "bce"] = "ce"
    """First task: cross-entropy, as for all methods, or binary cross-entropy, as published."""


class Ssul(Method):
    """Only the newest head learns: a 3x3 convolution on the maps of the ASPP and the rows of the new classes.

    With saliency maps, made by another network, the heads of unknown and background learn, too, and a new head starts
    as a copy of the unknown one. Without them a new head starts as a copy of the first one's body.
    """

    Options = SsulOptions
    segmentation_only = True
    linear, own_head = False, True
    summary = "frozen features, a private 3x3 head per task, an unknown class from saliency maps (NeurIPS 2021)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a threshold that is no probability."""
        require_values(self.options, self.flag, {"threshold": (0 <= self.options.threshold <= 1, "from 0 to 1")})

    def check_tasks(self, config: RunConfig, tasks: Iterable[Task]) -> None:
        """Raises InputError for saliency maps that are missing or do not fit their images."""
        tasks = list(tasks)
        if self._maps is None:
            return
        if 1 + sum(map(len, tasks[0].groups)) > MOST_ROWS:
            raise InputError(f"{self.flag}.unknown leaves room for {MOST_ROWS - 2} classes: take fewer, or give none.")
        require_maps(self._maps, tasks, f"{self.flag}.unknown")

    @property
    def _maps(self) -> Path | None:
        return None if self.options.unknown == "none" else Path(self.options.unknown)

    def first_task(self) -> str:
        """Cross-entropy, or binary cross-entropy of all rows."""
        if self.options.first == "ce":
            return super().first_task()
        return "binary cross-entropy of all rows" + (", one of them for what is unknown" if self._maps else "")

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """The body of a new head is a copy of the first task's, or the whole of it of the unknown class's."""
        model.grow(new_classes, init="random")
        if len(model.classifiers) == 1:
            head = KnownAndUnknown() if self._maps else PrivateBodies()
            model.head = head.to(next(model.parameters()).device).to(memory_format=torch.channels_last)
        elif self._maps:
            _unknown(model).grow_as_unknown(model.decoder, linear_classifiers(model)[-1])
        else:
            cast("PrivateBodies", model.head).grow(model.decoder)

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Cross-entropy without heads of the method's own, or binary cross-entropy of every row."""
        if self.options.first == "bce":
            if self._maps:
                clear_background(linear_classifiers(model)[0])
            trainer.fit(model, self._labelled(task), self._first_losses(model))
            return
        head, model.head = model.head, SharedFeatures()
        super().learn_first(task, model, trainer)
        model.head = head

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """In a shared first task the heads of unknown and background learn when it ends, alone, in one epoch."""
        if task.index == 0 and self._maps and self.options.first == "ce":
            head = _unknown(model)
            head.start(model.decoder)
            with only(model, head.unknown, head.background):
                losses = self._first_losses(model)
                trainer.fit(model, self._labelled(task), losses, "unknown", epochs=1, batch_norm="freeze")

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Fits the newest head, and those of unknown and background; BatchNorm stays as it is, the new head's too."""
        parts = [model.classifiers[-1], cast("PrivateBodies", model.head).bodies[-1]]
        if self._maps:
            parts += [_unknown(model).unknown, _unknown(model).background]
        rates = trainer.config.rates(task.index) | {"head.background.": BACKGROUND_RATE}
        with only(model, *parts):
            losses = self.objective(task, model, teacher, trainer)
            trainer.fit(model, self._labelled(task), losses, batch_norm="freeze", rates=rates)

    def _labelled(self, task: Task) -> Task:
        return with_rows(task, self._maps) if self._maps else task

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Old classifiers become binary ones: background is what none of them is, unless it has a row that learnt."""
        self.model = model
        if self._maps is None and self.options.first == "ce":
            subtract_background(linear_classifiers(teacher))
            subtract_background(linear_classifiers(model)[:-1])

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of all rows to the labels and what the old model is sure of ("bce").

        labels hold channels, or with saliency maps rows: unknown, background, classes.
        """
        with torch.no_grad():
            old = upsample(self._rows(teacher, teacher(images)), labels)
            targets = sure_labels(old, labels, self.options.threshold, first_class=2 if self._maps else 1)
        return {"bce": all_rows_bce(upsample(self._rows(self.model, forward(images)), labels), targets)}

    def _first_losses(self, model: Segmenter) -> Losses:
        def losses(forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"bce": all_rows_bce(upsample(self._rows(model, forward(images)), labels), labels)}

        return losses

    def _rows(self, model: Segmenter, output: Output) -> Tensor:
        if self._maps is None:
            return output.logits
        return _unknown(model).rows(model.decoder, model.classifiers, output.features)


def _unknown(model: Segmenter) -> KnownAndUnknown:
    return cast("KnownAndUnknown", model.head)
