"""DKD (Baek et al., NeurIPS 2022): binary classifiers, decomposed distillation, new rows that start as "none of it"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import Tensor, nn

from css.config.options import not_negative, require_values
from css.config.settings import RunConfig
from css.losses import upsample
from css.method.contract import Method
from css.model.output import Output
from css.model.segmenter import FEATURES, Segmenter, SharedFeatures
from css.model.state import bias_of, linear_classifiers, only
from css.training.trainer import Trainer
from plop_baseline.dkd_losses import Rows, auxiliary_loss, dkd_terms
from plop_baseline.sigmoid_rows import clear_background, hard_bce, subtract_background
from tasks import Task


@dataclass(frozen=True)
class DkdOptions:
    """Weights of the losses."""

    kd_weight: float = 5.0
    """Weight of the distillation of the old classes' probabilities."""
    part_weight: float = 5.0
    """Weight of the distillation of what speaks for an old class, and of what speaks against it."""
    pos_weight: float = 1.0
    """Weight of a positive pixel in later tasks; published: 1 on VOC, 35 on ADE20K."""
    first: Literal["ce", "bce"] = "ce"
    """First task: cross-entropy, as for all methods, or binary cross-entropy, as published."""
    first_pos_weight: float = 2.0
    """Weight of a positive pixel in a first task learnt with binary cross-entropy."""


class WithAuxiliary(SharedFeatures):
    """One more row, which learns that nothing of what is seen is its class, and plays no part in the answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.auxiliary = nn.Conv2d(width, 1, 1)
        initialize_head(self.auxiliary)


class Dkd(Method):
    """Where the first task is shared, the auxiliary row learns from its images when it ends, in one epoch."""

    Options = DkdOptions
    segmentation_only = True
    own_head = True
    train_settings: ClassVar[Mapping[str, Any]] = {"later_batch_norm": "freeze", "later_rates": {"encoder": 0.1}}
    summary = "binary classifiers, distilled as a whole and in positive and negative parts (NeurIPS 2022)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a negative weight."""
        weights = ("kd_weight", "part_weight", "pos_weight", "first_pos_weight")
        require_values(self.options, self.flag, not_negative(self.options, weights))

    def first_task(self) -> str:
        """Cross-entropy, or binary cross-entropy with its weight of positives and an auxiliary row."""
        if self.options.first == "ce":
            return super().first_task()
        return f"binary cross-entropy, positives times {self.options.first_pos_weight:g}, and an auxiliary row"

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """The new rows are copies of the auxiliary row."""
        model.grow(new_classes, init="random")
        if len(model.classifiers) == 1:
            model.head = WithAuxiliary(FEATURES).to(next(model.parameters()).device)
        else:
            start_from(linear_classifiers(model)[-1], _auxiliary(model))

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Cross-entropy, or binary cross-entropy of every class and the auxiliary row."""
        if self.options.first == "bce":
            clear_background(linear_classifiers(model)[0])
            self.auxiliary = _auxiliary(model)
            trainer.fit(model, task, self._first_losses)
            return
        model.head.requires_grad_(False)
        super().learn_first(task, model, trainer)
        model.head.requires_grad_(True)

    def _first_losses(self, forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        new = forward(images)
        logits = upsample(new.logits, labels)
        return {
            "bce": hard_bce(logits[:, 1:], labels, 1, self.options.first_pos_weight).sum(),
            "auxiliary": self._auxiliary_loss(new, labels),
        }

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """In a shared first task the auxiliary row learns when it ends, alone."""
        if task.index == 0 and self.options.first == "ce":
            self.auxiliary = _auxiliary(model)
            with only(model, self.auxiliary):
                trainer.fit(model, task, self._only_auxiliary, "auxiliary", epochs=1, batch_norm="freeze")

    def _only_auxiliary(self, forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"auxiliary": self._auxiliary_loss(forward(images), labels)}

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Old classifiers become binary ones."""
        subtract_background(linear_classifiers(teacher))
        subtract_background(linear_classifiers(model)[:-1])
        self.model, self.auxiliary = model, _auxiliary(model)

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The paper's terms with their weights: "bce", "kd", both "parts" and the "auxiliary" row's."""
        with torch.no_grad():
            old = teacher(images)
        new, options = forward(images), self.options
        terms = dkd_terms(
            new.features, old.features, upsample(new.logits, labels)[:, 1:], upsample(old.logits, labels)[:, 1:],
            labels, _old_rows(task, self.model), _old_rows(task, teacher), options.pos_weight,
        )  # fmt: skip
        return {
            "bce": terms["mbce"].sum(),
            "kd": options.kd_weight * terms["kd"].sum(),
            "parts": options.part_weight * (terms["pos"].sum() + terms["neg"].sum()),
            "auxiliary": self._auxiliary_loss(new, labels),
        }

    def _auxiliary_loss(self, new: Output, labels: Tensor) -> Tensor:
        return auxiliary_loss(upsample(self.auxiliary(new.features.detach()), labels))


@torch.no_grad()
def start_from(newest: nn.Conv2d, auxiliary: nn.Conv2d) -> None:
    """Every row becomes a copy of the auxiliary row, in place."""
    newest.weight.copy_(auxiliary.weight.expand_as(newest.weight))
    bias_of(newest).copy_(bias_of(auxiliary).expand_as(bias_of(newest)))


def _auxiliary(model: Segmenter) -> nn.Conv2d:
    return cast("WithAuxiliary", model.head).auxiliary


def _old_rows(task: Task, model: Segmenter) -> Rows:
    """Of the old classes, the background left out."""
    old = linear_classifiers(model)[: task.index]
    weight, bias = torch.cat([of.weight.flatten(1) for of in old]), torch.cat([bias_of(of) for of in old])
    return Rows(weight[1:], bias[1:])
