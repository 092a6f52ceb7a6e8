"""LGKD (Yang et al., ICCV 2023) around PLOP or MiB: distillation guided by the labels of the new classes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, cast

import torch
from torch import Tensor, nn

from css.config.options import not_negative, require_values
from css.config.settings import NoOptions, RunConfig
from css.losses import upsample
from css.method.contract import Method
from css.method.wrapper import BaseT, Wrapper
from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from plop_baseline.label_guided import label_guided_distillation, selective_labels
from plop_baseline.mib import Mib
from plop_baseline.plop import Plop, PlopOptions
from tasks import InputError, Task


@dataclass(frozen=True)
class LabelGuidedOptions(Generic[BaseT]):
    """The distillation, and what the base method sees."""

    weight: float = 25.0
    """Weight of the label-guided distillation; 25 in the code of MBS."""
    alpha: float = 1.0
    """The old model's logits are multiplied by this before its soft-max."""
    ignore_doubtful: bool = False
    """Background pixels that the old model gives to its classes with more than one half are void to the base method
    (the selective rule of MBS)."""
    base: BaseT = field(default_factory=NoOptions)  # type: ignore[assignment]


class LabelGuided(Wrapper):
    """Adds the distillation to the losses of the base method, on the same forward passes.

    Around MiB it takes the place of the unbiased distillation, whose weight is 0 by default then.
    """

    suffix = "lgkd"
    Options: ClassVar[type] = LabelGuidedOptions
    summary = "distillation in which the old background goes to the labelled new class (LGKD, ICCV 2023)"

    def require_base(self, base: Method) -> None:
        """Raises InputError for a base whose losses are not those of a soft-max over background and classes."""
        if not isinstance(base, Plop | Mib):
            raise InputError("+lgkd goes around plop or mib: it guides a distillation of a soft-max with background.")

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a negative weight or alpha."""
        super().check(config)
        require_values(self.options, self.flag, not_negative(self.options, ("weight", "alpha")))

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """As the base."""
        self.base.prepare(task, model, teacher, trainer)

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The base's, and the distillation ("lgkd")."""
        with torch.no_grad():
            old = teacher(images)
        new, options = forward(images), self.options
        logits, old_logits = upsample(new.logits, labels), upsample(old.logits, labels)
        guided = label_guided_distillation(logits, old_logits, labels, options.alpha).mean()
        seen = selective_labels(old_logits, labels) if options.ignore_doubtful else labels
        asked = cast("Segmenter", _Answer(old))
        base = self.base.losses(task, _Answer(new), asked, images, seen)
        return base | {"lgkd": options.weight * guided}


class _Answer(nn.Module):
    """A network that has been asked already."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output


@dataclass(frozen=True)
class LgkdOptions(LabelGuidedOptions[PlopOptions]):
    """Those of PLOP are --options.base."""

    base: PlopOptions = field(default_factory=PlopOptions)


class Lgkd(LabelGuided):
    """plop+lgkd, the row of the paper."""

    Options = LgkdOptions
    summary = "PLOP with label-guided distillation (ICCV 2023)"

    def __init__(self, options: Any = None) -> None:
        options = self.Options() if options is None else options
        super().__init__(options, Plop(options.base))
