"""Connector (Lin et al., CVPR 2022): the mean of a stable and of a plastic model, both trained from the old one."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from css.config.options import require_values
from css.config.settings import RunConfig
from css.fusion.gates import linear
from css.method.contract import plain_losses
from css.model.segmenter import Segmenter
from css.model.state import snapshot
from css.s2mf.slow import divide_epochs
from css.training.trainer import Trainer
from plop_baseline.nsp import Nsp, NspOptions
from tasks import Task


@dataclass(frozen=True)
class ConnectorOptions(NspOptions):
    """Those of the stable model (`NspOptions`), and the plastic model's own."""

    fast_share: float = 0.5
    """Share of the epochs that the plastic model takes."""
    feature_weight: float = 1.0
    """Weight of the distance of its features from the old model's."""


class Connector(Nsp):
    """Stable model: NSP. Plastic model: cross-entropy and the squared distance of the features from the old model's.

    In task t (from 0) the stable model counts t / (t + 1): the old tasks have t votes, the new one has one. Everything
    is averaged, heads and BatchNorm included. Differs from the published code: both models share the epochs of the
    task, so that a run has as many as those of other methods.
    """

    Options = ConnectorOptions
    summary = "mean of NSP and a model with feature distillation (CVPR 2022)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError for an option out of range, or if one of the two models has no epoch."""
        super().check(config)
        require_values(self.options, self.flag, {
            "fast_share": (0 < self.options.fast_share < 1, "between 0 and 1"),
            "feature_weight": (self.options.feature_weight >= 0, "at least 0"),
        })  # fmt: skip
        divide_epochs(config.epochs(1), self.options.fast_share, self.flag)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Trains the stable and then the plastic model, each from the old one, and leaves their mean in `model`."""
        stable_epochs, plastic_epochs = divide_epochs(
            trainer.config.epochs(task.index), self.options.fast_share, self.flag
        )
        start = snapshot(model)
        self.learn_slow(task, model, trainer, plain_losses, stable_epochs)
        stable = snapshot(model)

        def losses(forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            new, old = forward(images), teacher(images)
            distance = F.mse_loss(new.features, old.features.detach())
            return plain_losses(lambda _: new, images, labels) | {"features": self.options.feature_weight * distance}

        model.load_state_dict(start)
        trainer.fit(model, task, losses, "plastic", epochs=plastic_epochs)
        model.load_state_dict(linear(stable, snapshot(model), task.index / (task.index + 1)))
