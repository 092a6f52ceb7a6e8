"""Training in the null space of earlier tasks: the slow model of Split2MetaFusion, of use alone, too."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, cast

import torch
from torch import Tensor, nn

from css.config.options import require_values
from css.config.settings import BatchNormMode, NoOptions
from css.losses import cross_entropy, upsample
from css.method.contract import Method
from css.method.wrapper import BaseT, Wrapper
from css.model.segmenter import Segmenter
from css.model.state import snapshot
from css.nullspace import GradientStatistics, Projector, Rule, for_parameters, project_total, project_updates, projector
from css.system.tensors import part, prefixed
from css.training.trainer import Losses, Trainer
from tasks import InputError, Task
from tasks.source import BACKGROUND

Projection = Literal["none", "nsp", "tpnsp"]


@dataclass(frozen=True)
class StatisticsOptions:
    """How the statistics of a task are measured.

    Raises:
        InputError: a value out of range, or groups by class without labels.
    """

    loss: Literal["labels", "sampled", "logits"] = "labels"
    """Loss whose gradients are collected for tpnsp: cross-entropy to the labels (paper), to labels drawn from the
    model's own prediction (Fisher), or half the squared logits (as in MAS)."""
    group: Literal["set", "class", "batch", "sample"] = "batch"
    """Gradients of tpnsp are summed over this much before they are squared: "set" is the paper's formula read
    literally."""
    batches: int = 100
    """At most this many training batches of a task are looked at."""

    def __post_init__(self) -> None:
        require_values(self, "--options.statistics", {
            "batches": (self.batches >= 1, "at least 1"),
            "group": (self.group != "class" or self.loss == "labels", "that needs no labels, or the loss labels"),
        })  # fmt: skip


@dataclass(frozen=True)
class SlowOptions(Generic[BaseT]):
    """In which directions the slow model may move, and those of the base method."""

    projector: Projection = "tpnsp"
    """Null space in which every update lies: task-preferred (tpnsp: Split2MetaFusion, Eq. 5-7), of the features (nsp);
    none: updates are not projected."""
    batch_norm: BatchNormMode | None = None
    """BatchNorm while the slow model is trained, if it is to differ from --train.later-batch-norm."""
    soft: bool = False
    """Shorten updates by (I + M / lambda)^-1, lambda = the eigenvalue at which the rule cuts, instead of cutting."""
    rule: Rule = field(default_factory=lambda: Rule("energy", 0.05))
    statistics: StatisticsOptions = field(default_factory=StatisticsOptions)
    base: BaseT = field(default_factory=NoOptions)  # type: ignore[assignment]


def divide_epochs(epochs: int, fast_share: float, flag: str) -> tuple[int, int]:
    """Epochs of the slow model and of the one beside it. Raises InputError if the slow one has none."""
    fast = max(1, round(fast_share * epochs))
    if fast >= epochs:
        raise InputError(
            f"{flag}.fast-share {fast_share} of --train.later-epochs {epochs} leaves the slow model no "
            "epoch: give at least --train.later-epochs 2, or a smaller share."
        )
    return epochs - fast, fast


class SlowModel(Wrapper):
    """The losses of the base method, every update projected; the statistics of a task are taken when it ends."""

    suffix = "nsp"
    Options: ClassVar[type] = SlowOptions

    def __init__(self, options: Any, base: Method) -> None:
        super().__init__(options, base)
        self.statistics = GradientStatistics()  # of all tasks so far

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Fits the base's losses for all epochs of the task, every update projected."""
        losses = self.base.objective(task, model, teacher, trainer)
        self.learn_slow(task, model, trainer, losses, trainer.config.epochs(task.index))

    def learn_slow(self, task: Task, model: Segmenter, trainer: Trainer, losses: Losses, epochs: int) -> None:
        """Eq. 7: every update is projected, and the total once more at the end; but for the classifiers."""
        start = snapshot(model)
        self.statistics.require_fit(model)
        projectors = self._projectors()

        def project(optimizer: torch.optim.Optimizer) -> None:
            project_updates(optimizer, for_parameters(model, projectors))

        trainer.fit(
            model, task, losses, "slow", epochs=epochs, batch_norm=self.options.batch_norm, on_optimizer=project
        )
        project_total(start, model, projectors)

    def _projectors(self) -> dict[str, Projector]:
        """By layer of the body and the decoder.

        Classifiers stay free: what is background changes with every task, and its row, whose bias a new classifier has
        lowered (Segmenter.grow), must be able to follow.
        """
        if not self._projects:
            return {}
        found = projector(self.statistics, self.options.rule, self.options.soft)
        return {layer: of_layer for layer, of_layer in found.items() if not layer.startswith("classifiers.")}

    @property
    def _projects(self) -> bool:
        """Does the slow model need the statistics of earlier tasks?"""
        return self.options.projector in ("nsp", "tpnsp")

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """The statistics of this task join those of the earlier ones."""
        super().finish(task, model, trainer)
        if self._projects:
            measured = trainer.once("statistics", lambda: self._measure(task, model, trainer))
            self.statistics.add(GradientStatistics.from_tensors(part(measured, "gradients")))

    def _measure(self, task: Task, model: Segmenter, trainer: Trainer) -> dict[str, Tensor]:
        gradients, options = GradientStatistics(), self.options.statistics
        batches = self.looked_at(task, model, trainer)
        if self.options.projector == "tpnsp":
            loss = {"labels": _label_loss, "sampled": _sampled_loss, "logits": _logit_loss}[options.loss]
            gradients.collect(model, batches, loss, options.group)
        else:
            gradients.collect_features(model, batches)
        gradients.reduce(trainer.processes)
        return prefixed(gradients=gradients.tensors())

    def looked_at(self, task: Task, model: Segmenter, trainer: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of a task that statistics are taken from: normalised images and labels."""
        return trainer.passes(task, model, "statistics", self.options.statistics.batches)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the base, and the statistics of the layers as gradients.PLACE."""
        return super().tensors() | prefixed(gradients=self.statistics.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Gives the base its own, and takes back the statistics."""
        super().load_tensors(tensors)
        self.statistics = GradientStatistics.from_tensors(part(tensors, "gradients"))


def _label_loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the labels, or to an old class that the model sees where they say background.

    They do not know better: an earlier class is background in the labels of a later task (PLOP), so the model's own
    prediction is taken.
    """
    logits = upsample(model(images).logits, labels)
    own = logits.argmax(1).to(labels.dtype)
    first_new = sum(cast("nn.Conv2d", classifier).out_channels for classifier in model.classifiers[:-1])
    forgotten = (labels == BACKGROUND) & (own < first_new)
    return cross_entropy(logits, torch.where(forgotten, own, labels))


def _sampled_loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to labels drawn from the prediction (Gumbel-max): squared gradients are the Fisher information."""
    logits = upsample(model(images).logits, labels)
    noise = -torch.empty_like(logits).exponential_().log()
    return cross_entropy(logits, (logits.detach() + noise).argmax(1))


def _logit_loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Half the squared logits, mean over pixels (MAS)."""
    return 0.5 * model(images).logits.square().sum(1).mean()
