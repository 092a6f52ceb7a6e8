"""Methods around a base method: `BASE+NAME`. Options of the base method are `--options.base.NAME`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from css.config.settings import RunConfig
from css.method.contract import Method
from css.model.segmenter import Segmenter
from css.system.tensors import part, prefixed
from css.training.trainer import Trainer
from tasks import InputError, Task

BaseT = TypeVar("BaseT")  # options of the base: the field `base`, the last one of a wrapper's options


class Wrapper(Method):
    """A method that holds another one, `base`. What it overrides calls super(), which passes it on to the base.

    Args:
        options: Its own, whose field `base` holds those of the base.
        base: The method that it goes around.

    Raises:
        InputError: joint training, or a base that does more than give losses where it must not.
    """

    suffix: ClassVar[str]  # as in BASE+suffix
    losses_alone: ClassVar[bool] = True  # the base must learn every task by its losses alone
    needs_linear: ClassVar[bool] = False  # the classifiers of the base must be linear in the features

    def __init__(self, options: Any, base: Method) -> None:
        super().__init__(options)
        self.require_base(base)
        self.base = base
        self.segmentation_only = type(self).segmentation_only or base.segmentation_only
        self.linear, self.own_head, self.frozen = base.linear, base.own_head, base.frozen
        self.classifier_features, self.classifier_hidden = base.classifier_features, base.classifier_hidden

    def require_base(self, base: Method) -> None:
        """Raises InputError for a base that this wrapper cannot go around."""
        if base.joint:
            raise InputError(
                f"+{self.suffix} goes around a method that learns task after task, for example plop+{self.suffix}; "
                "joint training has a single one."
            )
        if self.losses_alone and type(base).learn is not Method.learn:
            raise InputError(
                f"+{self.suffix} needs a base method that learns every task by its losses alone, for example "
                f"plop+{self.suffix}, mib+{self.suffix} or finetune+{self.suffix}."
            )

        if self.needs_linear and not base.linear:
            raise InputError(
                f"+{self.suffix} trains classifiers that are linear in the features; its base method has a head of its "
                "own. Leave the wrapper out."
            )

    def check(self, config: RunConfig) -> None:
        """As the base."""
        self.base.check(config)

    def check_tasks(self, config: RunConfig, tasks: Iterable[Task]) -> None:
        """As the base."""
        self.base.check_tasks(config, tasks)

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """As the base."""
        self.base.grow(model, new_classes)

    def first_task(self) -> str:
        """As the base."""
        return self.base.first_task()

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """As the base."""
        self.base.learn_first(task, model, trainer)

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """As the base."""
        self.base.finish(task, model, trainer)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the base, as base.NAME."""
        return prefixed(base=self.base.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Gives the base its own."""
        self.base.load_tensors(part(tensors, "base"))

    def store(self, home: Path, task: Task, model: Segmenter) -> None:
        """As the base."""
        self.base.store(home, task, model)
