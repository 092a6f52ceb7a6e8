"""The contract of a method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from css.config.settings import ClassifierFeatures, NoOptions, RunConfig
from css.losses import cross_entropy
from css.model.output import Output
from css.model.segmenter import Segmenter
from css.training.trainer import Losses, Trainer
from tasks import Task

FIRST_TASK = "cross-entropy"


class Method:
    """How the tasks after the first are learnt. The first task is plain cross-entropy for every method.

    A new method is a subclass in a file of its own; most need only `losses`. The order of calls for one task is
    learn (which calls prepare, then losses once per batch; learn_first in the first task), then finish, then tensors.
    """

    Options: ClassVar[type] = NoOptions  # a frozen dataclass; its fields become --options.NAME
    # The default Options within a wrapper, by its name, if they are to differ there.
    options_within: ClassVar[Mapping[str, Any]] = {}
    train_settings: ClassVar[Mapping[str, Any]] = {}  # defaults of --train, where the method has its own
    joint: ClassVar[bool] = False  # learn all classes in one single task
    classifier_features: ClassifierFeatures = "decoder"  # what --model.classifier-features auto means: or "hypercolumn"
    classifier_hidden: int = 0  # units between hypercolumns and classifiers, if --model.classifier-hidden says nothing
    segmentation_only: bool = False  # needs a background class, or logits that are no log-probabilities
    linear: bool = True  # all classifiers are 1x1 convolutions of the features, which others may train once more
    frozen: bool = False  # later tasks train classifiers alone, on features that stay as they are
    own_head: bool = False  # `grow` puts a module of the method's own into `model.head`
    summary: ClassVar[str] = ""  # one line for `css list`

    flag: str = "--options"  # what the options stand below on the command line: --options.base within a wrapper

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    def check(self, config: RunConfig) -> None:
        """Raises InputError if the method cannot work with this configuration. Called before anything is written."""

    def check_tasks(self, config: RunConfig, tasks: Iterable[Task]) -> None:
        """Raises InputError if the method cannot learn one of these tasks. Called before anything is written, too."""

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """Adds what a task needs, before it is learnt or read from disk: at least the classifier of these raw ids."""
        model.grow(new_classes)

    def first_task(self) -> str:
        """How the first task is learnt: runs that agree share it.

        Where it is cross-entropy, that is without `model.head`, which every method learns for itself in `finish`.
        """
        return FIRST_TASK

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Learns the first task: plain cross-entropy, so that all methods can start from one run's first task."""
        trainer.fit(model, task, plain_losses)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Learns a later task. `teacher` is the frozen model of the previous one."""
        trainer.fit(model, task, self.objective(task, model, teacher, trainer))

    def objective(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> Losses:
        """What the trainer minimises in a later task: `losses`, after `prepare`."""
        self.prepare(task, model, teacher, trainer)

        def losses(forward: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.losses(task, forward, teacher, images, labels)

        return losses

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """What must be known before the first batch of a task, for example thresholds."""

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Named terms whose sum is minimised. `forward` is the model; images are normalised, labels are channels."""
        raise NotImplementedError

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """What to remember when a task ends, for example importances; also after a first task taken from elsewhere."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What must survive until the next task; saved beside the model."""
        return {}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `tensors` returned."""

    def store(self, home: Path, task: Task, model: Segmenter) -> None:
        """Writes what else belongs into the folder of the task that has just ended, for example pictures."""


def plain_losses(
    forward: Callable[[torch.Tensor], Output], images: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Cross-entropy alone, as "ce": images (B, 3, H, W) normalised, labels (B, H, W) channels or 255."""
    return {"ce": cross_entropy(forward(images).logits, labels)}
