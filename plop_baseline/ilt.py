"""ILT (Michieli and Zanuttigh, ICCV workshops 2019): LwF with a distillation of the encoder's output."""

from dataclasses import dataclass

import torch
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from css.losses import cross_entropy, upsample
from css.method.contract import Method
from css.model.output import Output
from css.model.segmenter import Segmenter
from plop_baseline.lwf import distillation
from tasks import Task


@dataclass(frozen=True)
class IltOptions:
    """Weights of the two distillations, as in PLOP's official code."""

    kd_weight: float = 100.0
    """Weight of the distillation of the logits."""
    feature_weight: float = 100.0
    """Weight of the mean squared difference of the encoder's outputs."""


class Ilt(Method):
    """Cross-entropy, LwF's distillation of the logits, and the mean squared change of all elements of the features.

    The features are the encoder's output, activated and not normalised, as in PLOP's official code, whose weights are
    the defaults. Source: ILT, sections 4.2 and 4.3.
    """

    Options = IltOptions
    segmentation_only = True
    summary = "distillation of the logits and of the encoder's output (ICCV-W 2019)"

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy, and the distillation of the logits ("kd") and of the encoder's output ("features")."""
        with torch.no_grad():
            old = teacher(images)
        new = forward(images)
        logits, old_logits = upsample(new.logits, labels), upsample(old.logits, labels)
        change = F.mse_loss(encoder_output(teacher, new), encoder_output(teacher, old))
        return {
            "ce": cross_entropy(logits, labels),
            "kd": self.options.kd_weight * distillation(logits, old_logits).mean(),
            "features": self.options.feature_weight * change,
        }


def encoder_output(model: Segmenter, output: Output) -> Tensor:
    """What the decoder was given, (B, C, h, w): the body's output of the official code, activated.

    The taps of a ResNet are read before the activation, those of other encoders are what the decoder gets.
    `model` tells which encoder made the output.
    """
    last = output.taps[-1]
    return last.relu() if isinstance(model.encoder, ResNetEncoder) else last
