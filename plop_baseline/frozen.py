"""Frozen features: only the classifier of the new classes is trained. The honest floor of every table."""

from typing import cast

import torch
from torch import Tensor, nn

from css.method.contract import Method, plain_losses
from css.model.segmenter import Segmenter
from css.model.state import only
from css.training.trainer import Trainer
from tasks import Task


class Frozen(Method):
    """After the first task, encoder, decoder and old classifiers stay as they are, BatchNorm statistics included.

    Old logits are then exactly those of the teacher: the balanced initialisation, which takes probability from the
    background, is undone for it, because nothing here could ever give it back.
    """

    summary = "everything but the new classifier frozen (floor)"
    frozen_network = True

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Fits the newest classifier alone; everything can be trained again afterwards."""
        with torch.no_grad():
            background, old = cast("nn.Conv2d", model.classifiers[0]), cast("nn.Conv2d", teacher.classifiers[0])
            assert background.bias is not None and old.bias is not None
            background.bias.copy_(old.bias)
        with only(model, model.classifiers[-1]):
            trainer.fit(model, task, self.objective(task, model, teacher, trainer), batch_norm="freeze")

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of the new images alone, as "ce"."""
        return plain_losses(forward, images, labels)
