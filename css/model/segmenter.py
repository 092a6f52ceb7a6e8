"""The network of a stream: an encoder and a DeepLabV3 decoder from smp, and a classifier that grows with every task."""

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import nn

from css.model.dilation import skip_taps_in_padding
from css.model.encoder_weights import load_encoder_weights, pixel_statistics
from css.model.encoders import build_encoder
from css.model.hypercolumn import Hypercolumn
from css.model.output import Output

FEATURES = 256  # channels of the DeepLabV3 decoder


class SharedFeatures(nn.Module):
    """How the maps of the encoder become features and logits: every classifier sees what the decoder makes of them.

    A method with a head of its own puts a module with the same `forward` in its place (`Method.grow`).
    """

    def forward(
        self, decoder: nn.Module, classifiers: nn.ModuleList, stages: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, 256, h, w) and logits (B, seen classes, h, w) of the encoder's maps."""
        features = decoder(stages)
        return features, torch.cat([classify(features) for classify in classifiers], dim=1)


class Segmenter(nn.Module):
    """DeepLabV3 (output stride 16, ASPP rates 6, 12, 18, no dropout) with one 1x1 convolution per task.

    Input: normalised images (B, 3, H, W), H and W multiples of 16. Up-sampling of the logits to label size is left to
    the losses and the evaluator. `encoder_weights`: "none", "imagenet" (smp's hub) or a file.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, encoder: str, encoder_weights: str | Path = "none") -> None:
        super().__init__()
        self.encoder_name = encoder
        self.encoder = build_encoder(encoder)
        self.decoder = DeepLabV3Decoder(
            cast("Sequence[int]", self.encoder.out_channels)[-1], FEATURES,
            atrous_rates=(6, 12, 18), aspp_separable=False, aspp_dropout=0.0,
        )  # fmt: skip
        initialize_decoder(self.decoder)  # smp's own DeepLabV3 leaves PyTorch's default here
        skip_taps_in_padding(self.decoder)
        self.pretrained: nn.Module | None = None  # else the encoder as it was before the first task
        self.hypercolumn: Hypercolumn | None = None  # else what the classifiers see, in place of the decoder's features
        self.hidden: nn.Conv2d | None = None  # else a layer of it whose units they see, too
        self.classifiers = nn.ModuleList()
        self.head: nn.Module = SharedFeatures()
        self.classes: list[int] = []  # raw class id of every output channel
        if str(encoder_weights) != "none":
            load_encoder_weights(self.encoder, encoder, encoder_weights)
        mean, std = pixel_statistics(encoder)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._tapped = _remember_last_activations(self.encoder) if isinstance(self.encoder, ResNetEncoder) else []

    def forward(self, images: torch.Tensor) -> Output:
        """Output of (B, 3, H, W): logits (B, C, h, w) and features (B, D, h, w) at a sixteenth of the size."""
        stages = self.encoder(images)[-4:]
        taps = tuple(activation.__dict__.pop("last_input") for activation in self._tapped) or tuple(stages)
        if self.hypercolumn is None:
            features, logits = self.head(self.decoder, self.classifiers, stages)
            return Output(logits, features, taps)
        features = self.hypercolumn(self._column(images, stages))
        return Output(self.classify(features), features, taps)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, h, w) of features (B, D, h, w), where all classifiers see the same ones."""
        exact = self.hypercolumn is not None  # hypercolumns are float32: no rounding to half precision
        with torch.autocast(features.device.type, enabled=False) if exact else contextlib.nullcontext():
            if self.hidden is not None:
                features = torch.cat([features, self.hidden(features).relu()], dim=1)
            return torch.cat([classify(features) for classify in self.classifiers], dim=1)

    def column(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps that a hypercolumn is made of: stages 2 to 4 and the decoder's, at strides 8, 16, 16, 16.

        Before them those of the pretrained encoder, if it is kept.
        """
        stages = self.encoder(images)[-4:]
        for activation in self._tapped:
            activation.__dict__.pop("last_input")
        return self._column(images, stages)

    def _column(self, images: torch.Tensor, stages: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        before = [] if self.pretrained is None else self.pretrained(images)[-3:]
        return [*before, *stages[1:], self.decoder(stages)]

    @property
    def column_widths(self) -> list[int]:
        """Channels of what `column` returns."""
        widths = list(cast("Sequence[int]", self.encoder.out_channels))[-3:]
        return [*widths * (1 if self.pretrained is None else 2), FEATURES]

    @property
    def lowest(self) -> float:
        """The smallest value that a feature can have: the decoder's last layer is a ReLU."""
        return 0.0 if self.hypercolumn is None else -math.inf

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) to what the encoder was trained on, channels last."""
        images = images.to(self.pixel_mean.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        return (images.float() / 255 - self.pixel_mean) / self.pixel_std

    def grow(self, new_classes: Sequence[int], init: str = "balanced") -> None:
        """Adds the classifier of a task with these raw class ids.

        "balanced" (MiB Eq. 11, PLOP): every new class starts as a copy of the background, and background and new
        classes share its probability: w_new = w_bg, b_new = b_bg = b_bg - log(N_new + 1). "random": no use of the
        background. The first classifier is always random. Raises ValueError for a class that has a classifier, or
        another `init`.
        """
        if repeated := set(new_classes) & set(self.classes):
            raise ValueError(f"classes {sorted(repeated)} have a classifier already")
        if init not in ("balanced", "random"):
            raise ValueError(f"init is 'balanced' or 'random', not {init!r}")
        width = cast("nn.Conv2d", self.classifiers[0]).in_channels if self.classifiers else FEATURES
        classifier = nn.Conv2d(width, len(new_classes), 1).to(self.pixel_mean.device)
        initialize_head(classifier)
        if self.classifiers and init == "balanced":
            background = cast("nn.Conv2d", self.classifiers[0])
            assert background.bias is not None and classifier.bias is not None
            with torch.no_grad():
                background.bias[0] -= math.log(len(new_classes) + 1)
                classifier.weight.copy_(background.weight[:1].expand_as(classifier.weight))
                classifier.bias.fill_(background.bias[0])
        self.classifiers.append(classifier.to(memory_format=torch.channels_last))
        self.classes += new_classes

    def keep_pretrained(self, weights: str | Path = "none") -> None:
        """A further encoder, with `weights` as of the first one, that is never trained, for hypercolumns."""
        self.pretrained = build_encoder(self.encoder_name)
        if str(weights) != "none":
            load_encoder_weights(self.pretrained, self.encoder_name, weights)
        self.pretrained.eval().requires_grad_(False)
        self.pretrained.to(self.pixel_mean.device).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Segmenter":
        """As of every network, but for the pretrained encoder, whose statistics stay."""
        super().train(mode)
        if self.pretrained is not None:
            self.pretrained.eval()
        return self

    def see(self, hypercolumn: Hypercolumn, hidden: int = 0) -> None:
        """From now on the classifiers see hypercolumns, and so many units of a layer on them if any.

        New classifiers and a new layer, which must still be set.
        """
        self.hypercolumn = hypercolumn
        self.hidden = nn.Conv2d(hypercolumn.width, hidden, 1) if hidden else None
        sizes = [cast("nn.Conv2d", classifier).out_channels for classifier in self.classifiers]
        self.classifiers = nn.ModuleList(nn.Conv2d(hypercolumn.width + hidden, size, 1) for size in sizes)
        self.to(self.pixel_mean.device).to(memory_format=torch.channels_last)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every network; one that sees the decoder's features sees hypercolumns if the state does."""
        if self.pretrained is None and any(name.startswith("pretrained.") for name in state_dict):
            self.keep_pretrained()
        if self.hypercolumn is None and (hypercolumn := Hypercolumn.from_state(state_dict, "hypercolumn.")):
            self.see(hypercolumn, len(state_dict.get("hidden.bias", ())))
        return super().load_state_dict(state_dict, strict, assign)

    def frozen(self) -> "Segmenter":
        """A copy that never changes, in evaluation mode: the teacher of the next task."""
        return copy.deepcopy(self).eval().requires_grad_(False)


class Head(nn.Module):
    """The classifiers of a network, which see features instead of images."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.classifiers, self._whole = model.classifiers, [model]  # in a list: no part of this module

    def forward(self, features: torch.Tensor) -> Output:
        """Of (B, D, h, w)."""
        return Output(self._whole[0].classify(features), features, ())

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """They are; only their place may be another."""
        return features.to(self._whole[0].pixel_mean.device)


def _remember_last_activations(encoder: ResNetEncoder) -> list[nn.Module]:
    """The last activation of each stage of a ResNet; from now on each keeps its last input, the pre-activation sum.

    It is kept in the module itself, so that a deep copy of the model keeps its own.
    """
    activations = [getattr(encoder, f"layer{stage}")[-1].relu for stage in (1, 2, 3, 4)]
    for activation in activations:
        activation.inplace = False  # else it would overwrite what is kept
        activation.register_forward_pre_hook(_keep_input)
    return activations


def _keep_input(activation: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """A block calls its activation several times; the last call, on the sum, is the one that remains."""
    activation.__dict__["last_input"] = inputs[0]
