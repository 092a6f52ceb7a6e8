"""STAR (Chen et al., NeurIPS 2023): binary classifiers, with features of old classes drawn while others are learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.config.options import not_negative, require_values
from css.config.settings import RunConfig
from css.losses import at_places, upsample
from css.method.contract import Method
from css.model.output import Output
from css.model.segmenter import FEATURES, Segmenter
from css.model.state import evaluating, linear_classifiers
from css.training.trainer import Trainer
from plop_baseline.sigmoid_rows import clear_background, hard_bce, subtract_background
from plop_baseline.star_losses import (
    contrast,
    masked_distance,
    new_class_loss,
    old_answers,
    old_places,
    weighted,
)
from plop_baseline.star_statistics import ClassStatistics, FeatureSums, numbers_after, plan
from tasks import Task
from tasks.source import BACKGROUND


@dataclass(frozen=True)
class StarOptions:
    """Weights of the losses, and what the released code does otherwise."""

    pos_weight: float = 4.0
    """Weight of a positive pixel; published: 4 on VOC, 30 on ADE20K."""
    distance_weight: float = 5.0
    """Weight of the change of the features where the old model sees an old class."""
    contrast_weight: float = 0.05
    """Weight of the nearness of new classes to old ones."""
    draw: bool = True
    """Learn new classifiers against features drawn for the old classes and more background, too."""
    first: Literal["ce", "bce"] = "ce"
    """First task: cross-entropy, as for all methods, or binary cross-entropy, as published."""
    released: bool = False
    """As the released code does: noise of the classes of later tasks around the prototypes of other classes, one random
    norm a dimension, and an old class is seen from a logit of 0.5 on (a probability of 0.62)."""


class Star(Method):
    """Only the rows of the new classes learn from labels; old rows move by weight decay alone."""

    Options = StarOptions
    segmentation_only = True
    train_settings: ClassVar[Mapping[str, Any]] = {
        "later_batch_norm": "freeze", "later_rates": {"encoder": 0.1, "new_classifier": 10.0},
    }  # fmt: skip
    summary = "binary classifiers, new ones against drawn features of old classes (NeurIPS 2023)"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        empty = torch.zeros(0, dtype=torch.float64)
        self.statistics = ClassStatistics(empty, torch.zeros(0, FEATURES), empty, empty, torch.zeros(0, FEATURES))
        self.numbers = empty  # places of the background and of every class, for the next task

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a negative weight."""
        weights = ("pos_weight", "distance_weight", "contrast_weight")
        require_values(self.options, self.flag, not_negative(self.options, weights))

    def first_task(self) -> str:
        """Cross-entropy, or binary cross-entropy with its weight of positives."""
        if self.options.first == "ce":
            return super().first_task()
        return f"binary cross-entropy, positives times {self.options.pos_weight:g}"

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """A new classifier is random."""
        model.grow(new_classes, init="random")

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Cross-entropy, or binary cross-entropy of every class."""
        if self.options.first == "ce":
            super().learn_first(task, model, trainer)
        else:
            clear_background(linear_classifiers(model)[0])
            trainer.fit(model, task, self._first_losses)

    def _first_losses(self, forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = upsample(forward(images).logits, labels)
        return {"bce": hard_bce(logits[:, 1:], labels, 1, self.options.pos_weight).sum()}

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Old classifiers become binary ones, and the old model counts what it sees in the images of the task."""
        subtract_background(linear_classifiers(teacher))
        *old, self.newest = linear_classifiers(model)
        subtract_background(old)
        counted = trainer.once("star", lambda: self._count(task, teacher, trainer))
        self.predicted = counted["predicted"]
        parts = trainer.config.train.accumulate * trainer.processes.world
        batches = int(counted["batches"]) * parts
        self.plan = plan(self.numbers, self.predicted, batches, len(task.new_classes), self._disjoint(trainer))
        self.old = ClassStatistics(*(part.float().to(trainer.processes.device) for part in self.statistics))

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the new rows ("bce"), "distance" of the features, "contrast" of the classes."""
        with torch.no_grad():
            old = teacher(images)
            answers = old_answers(upsample(old.logits, labels), self._threshold)
        new, options = forward(images), self.options
        terms = {"bce": weighted(self._new_class_terms(task, new, labels, answers))}
        features = new.features.float()
        if options.distance_weight:
            mask = old_places(labels, answers, features.shape[-2:])
            terms["distance"] = options.distance_weight * masked_distance(features, old.features.float(), mask)
        if options.contrast_weight:
            known, seen = len(task.old_classes), len(task.seen_classes)
            prototypes = self.old.prototypes[self.old.numbers > 0]
            terms["contrast"] = options.contrast_weight * contrast(features, labels, range(known, seen), prototypes)
        return terms

    def _new_class_terms(self, task: Task, new: Output, labels: Tensor, answers: Tensor) -> dict[str, Tensor]:
        small = new.logits[:, len(task.old_classes) :].float()
        background = at_places((labels == BACKGROUND) & (answers == BACKGROUND), small.shape[-2:])
        draws, ratio = self.plan if self.options.draw else ([0] * len(self.old.numbers), 0.0)
        noise = torch.randn(sum(draws), self.old.prototypes.shape[1])
        norm_noise = torch.randn_like(noise if self.options.released else noise[:, :1])
        drawn = self.old.draw(draws, noise.to(small), norm_noise.to(small))
        with torch.autocast(small.device.type, enabled=False):
            drawn_logits = F.linear(drawn, self.newest.weight.flatten(1), self.newest.bias)
        return new_class_loss(
            upsample(small, labels), small, drawn_logits, labels, len(task.old_classes), self.options.pos_weight,
            background, ratio,
        )  # fmt: skip

    @property
    def _threshold(self) -> float:
        return 0.5 if self.options.released else 0.0

    def _disjoint(self, trainer: Trainer) -> bool:
        return trainer.config.setting in ("disjoint", "partitioned")

    @torch.no_grad()
    def _count(self, task: Task, teacher: Segmenter, trainer: Trainer) -> dict[str, Tensor]:
        """Places of background that the old model calls background and every old class, and the number of batches."""
        channels = len(task.old_classes)
        counts, batches = torch.zeros(channels, dtype=torch.float64), 0
        for images, labels in trainer.passes(task, teacher, "star"):
            with trainer.autocast():
                logits = teacher(images).logits
            answers = old_answers(upsample(logits, labels), self._threshold)
            answers, own = (at_places(maps, logits.shape[-2:]) for maps in (answers, labels))
            counts += answers[own == BACKGROUND].bincount(minlength=channels).cpu()
            batches += 1
        return {"predicted": trainer.processes.sum(counts), "batches": torch.tensor(batches)}

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """The statistics of the new classes join those of the old ones, which stay as they are."""
        known = len(task.old_classes)
        found = FeatureSums(len(task.seen_classes), linear_classifiers(model)[0].in_channels)
        found.sums = trainer.once("class statistics", lambda: self._measure(task, model, trainer, found))["sums"]
        if task.index == 0:
            self.statistics, self.numbers = found.statistics(1), found.numbers
            return
        own = found.statistics(known)
        if self.options.released:
            around = torch.cat([self.statistics.prototypes, own.prototypes])[: len(own.prototypes)]
            own = found.statistics(known, around)
        self.statistics = self.statistics.joined(own)
        new, disjoint = len(task.new_classes), self._disjoint(trainer)
        self.numbers = numbers_after(self.numbers, self.predicted, own.numbers, new, disjoint)

    def _measure(self, task: Task, model: Segmenter, trainer: Trainer, found: FeatureSums) -> dict[str, Tensor]:
        for images, labels in trainer.passes(task, model, "class statistics"):
            with torch.no_grad(), evaluating(model), trainer.autocast():
                features = model(images).features
            sampled = at_places(labels, features.shape[-2:]).flatten()
            found.update(features.float().movedim(1, -1).flatten(0, 2), sampled)
        return {"sums": trainer.processes.sum(found.sums)}

    def tensors(self) -> dict[str, Tensor]:
        """Statistics of all classes, and how often they and the background were seen."""
        return {**self.statistics._asdict(), "places": self.numbers}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes both back."""
        self.statistics = ClassStatistics(*(tensors[name] for name in ClassStatistics._fields))
        self.numbers = tensors["places"]
