"""NSP, that is Adam-NSCL (Wang et al., CVPR 2021): every update lies in the null space of the features of old tasks."""

from dataclasses import dataclass, field
from typing import Any

from css.config.settings import BatchNormMode, NoOptions
from css.nullspace import Rule
from css.s2mf.slow import Projection, SlowModel, SlowOptions
from plop_baseline.finetune import Finetune


@dataclass(frozen=True)
class NspOptions(SlowOptions[NoOptions]):
    """Those of `css.s2mf.slow.SlowOptions`, with the defaults of Adam-NSCL."""

    projector: Projection = "nsp"
    batch_norm: BatchNormMode | None = "freeze-stats"
    rule: Rule = field(default_factory=lambda: Rule("energy", 0.01))


class Nsp(SlowModel):
    """The slow model of Split2MetaFusion alone, around fine-tuning, with the null space of the features.

    Differs from the published code: free are the directions with the last 1 % of the features' energy, where the code
    takes those within ten times the smallest eigenvalue (`--options.rule.kind ratio`), which is rounding noise for a
    rank-deficient matrix; the projector is not divided by its norm; the statistics of BatchNorm stay as they are, where
    the code lets them run, and holds weight and bias with EWC; the features of every task weigh the same.
    """

    Options = NspOptions
    summary = "updates in the null space of the old features (Adam-NSCL, CVPR 2021)"

    def __init__(self, options: Any = None) -> None:
        super().__init__(self.Options() if options is None else options, Finetune())
