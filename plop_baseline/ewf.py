"""EWF (Xiao et al., CVPR 2023): after every task, old and new weights are averaged with one fixed coefficient."""

from dataclasses import dataclass, field
from typing import Generic

from css.config.options import require_values
from css.config.settings import NoOptions, RunConfig
from css.fusion.gates import linear
from css.method.contract import Method
from css.method.wrapper import BaseT, Wrapper
from css.model.segmenter import Segmenter
from css.model.state import State, snapshot
from css.s2mf.algorithm import Split2MetaFusion
from css.s2mf.aligned import Aligned
from css.training.trainer import Trainer
from tasks import InputError, Task


@dataclass(frozen=True)
class EwfOptions(Generic[BaseT]):
    """The coefficient."""

    factor: float | None = None
    """Share of the new weights; default: the root of new over all seen classes."""
    base: BaseT = field(default_factory=NoOptions)  # type: ignore[assignment]


class Ewf(Wrapper):
    """What the base method learns from a task, averaged with the model before it; what the task has added stays.

    All entries are averaged, BatchNorm's statistics and old classifiers included. The old background row has the bias
    it had before the new classifier made room for itself (balanced start): the average takes 1 - factor of that back.
    Published runs hold the old classifiers while they train (`--train.later-rates.old-classifiers 0`).
    """

    suffix = "ewf"
    Options = EwfOptions
    losses_alone = False
    summary = "old and new weights averaged after every task with one fixed coefficient (EWF, CVPR 2023)"

    def require_base(self, base: Method) -> None:
        """Refused is what ends with features other than those of its model: fusing comes before aligning."""
        super().require_base(base)
        if isinstance(base, Aligned | Split2MetaFusion):
            raise InputError("+ewf fuses what a method has learnt, before it is aligned: write plop+ewf+align.")

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a coefficient that is none."""
        super().check(config)
        factor = self.options.factor
        require_values(self.options, self.flag, {"factor": (factor is None or 0 <= factor <= 1, "from 0 to 1")})

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """As the base; then old and new weights are averaged."""
        self.base.learn(task, model, teacher, trainer)
        factor = self.options.factor
        if factor is None:
            factor = balance_factor(len(task.new_classes), len(task.seen_classes))
        old, new = teacher.state_dict(), snapshot(model)
        model.load_state_dict(linear(old, new, 1 - factor, _grown(old, new)))


def _grown(old: State, new: State) -> tuple[str, ...]:
    """What the task has added, or has made larger."""
    return tuple(name for name, value in new.items() if name not in old or old[name].shape != value.shape)


def balance_factor(new: int, seen: int) -> float:
    """The share of the new model: the root of new over all seen classes, among which the background counts.

    Source: EWF, Eq. 6.
    """
    return (new / seen) ** 0.5
