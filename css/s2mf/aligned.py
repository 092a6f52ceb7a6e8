"""Any method with aligned classifiers: they are trained once more when a task ends, on drawn features, too."""

from dataclasses import dataclass, field
from typing import Any, Generic

from torch import Tensor

from css.config.settings import NoOptions
from css.method.contract import Method
from css.method.wrapper import BaseT, Wrapper
from css.model.segmenter import Segmenter
from css.model.state import restore_background
from css.s2mf.algorithm import Split2MetaFusion
from css.s2mf.alignment import Alignment
from css.system.tensors import part, prefixed
from css.training.trainer import Trainer
from tasks import InputError, Task


@dataclass(frozen=True)
class AlignedOptions(Generic[BaseT]):
    """Those of the base method."""

    base: BaseT = field(default_factory=NoOptions)  # type: ignore[assignment]


class Aligned(Wrapper):
    """What the base method leaves of a task, its classifiers aligned (`css.s2mf.alignment`).

    Around frozen features, nothing is left for the base to do: a new classifier is learnt as well without its epochs.
    Split2MetaFusion aligns by itself.
    """

    suffix = "align"
    Options = AlignedOptions
    summary = "classifiers trained once more after every task, on features drawn for the old classes"
    segmentation_only = True
    losses_alone = False
    needs_linear = True

    def __init__(self, options: Any, base: Method) -> None:
        super().__init__(options, base)
        self.alignment = Alignment(base.frozen)

    def require_base(self, base: Method) -> None:
        """Raises InputError for what aligns already: Split2MetaFusion does by itself."""
        super().require_base(base)
        if isinstance(base, Aligned | Split2MetaFusion):
            raise InputError(
                "+align goes around a method that does not align, as in plop+align; BASE+s2mf aligns by itself."
            )

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """As the base, unless its features are frozen; then all classifiers are trained once more."""
        if self.base.frozen:
            restore_background(model, teacher)
        else:
            self.base.learn(task, model, teacher, trainer)
        self.alignment.align(task, model, teacher, trainer)

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """As the base; then the moments of this task's features join the earlier ones."""
        super().finish(task, model, trainer)
        self.alignment.finish(task, model, trainer)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the base, and the moments of features as alignment.sums."""
        return super().tensors() | prefixed(alignment=self.alignment.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Gives the base its own, and takes back the moments."""
        super().load_tensors(tensors)
        self.alignment.load_tensors(part(tensors, "alignment"))
