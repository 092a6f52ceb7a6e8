"""Networks of torchvision and segmentation-models-pytorch, trained elsewhere, as what new classifiers are added to.

An architecture is a text that `--model.encoder` could hold: "torchvision:deeplabv3_resnet50", or "smp:" and the
config.json of `save_pretrained`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torchvision.models.segmentation as tv
from torch import Tensor, nn
from torch.nn import functional as F

from css.model.encoder_weights import IMAGENET, pixel_statistics
from css.model.output import Output
from css.model.segmenter import Segmenter
from tasks.errors import InputError, nearest

TORCHVISION, SMP = "torchvision:", "smp:"
ARCHITECTURES = (
    "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
State = dict[str, Tensor]


def is_foreign(architecture: str) -> bool:
    """Whether this is the architecture of another library, not the name of an encoder."""
    return architecture.startswith((TORCHVISION, SMP))


class Foreign(Segmenter):
    """A network whose last layer, a 1x1 convolution, is the classifier of a first task, and all else its features.

    Its answers are those of the network it was, as long as nothing but new classifiers is trained. Raises InputError
    for an architecture that cannot be divided so.
    """

    def __init__(self, architecture: str) -> None:
        nn.Module.__init__(self)  # not a Segmenter's: no encoder and no decoder of ours
        self.body: _Body = _Smp(architecture) if architecture.startswith(SMP) else _torchvision(architecture)
        self.hypercolumn = self.hidden = self.pretrained = None
        self.classifiers = nn.ModuleList()
        self.classes = []
        for name, values in zip(("pixel_mean", "pixel_std"), self.body.statistics, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Output:
        """Logits at the resolution at which the network makes its own, and what they are made from; no taps."""
        features = self.body(images)
        logits = torch.cat([classify(features) for classify in self.classifiers], dim=1)
        return Output(self.body.enlarge(logits), features, ())

    def grow(self, new_classes: Sequence[int], init: str = "balanced") -> None:
        """See `Segmenter.grow`; the first classifier is as wide as the features."""
        if self.classifiers:
            super().grow(new_classes, init)
            return
        classifier = nn.Conv2d(self.body.width, len(new_classes), 1)
        self.classifiers.append(classifier.to(self.pixel_mean.device).to(memory_format=torch.channels_last))
        self.classes += new_classes

    def adopt(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Takes the weights of the network it was, with as many classes as it has; grows to them.

        Raises InputError, naming `origin`, for weights of another architecture.
        """
        weight, bias = self.body.classifier(state, origin)
        self.grow(list(range(len(weight))))
        body = {f"body.{name}": value for name, value in self.body.features(state).items()}
        try:
            self.load_state_dict({**body, "classifiers.0.weight": weight, "classifiers.0.bias": bias})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{origin} does not fit the architecture that is given for it ({reason}).") from None


class _Body(nn.Module):
    """All of a network but its last layer: images to features (B, `width`, h, w)."""

    width: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET  # of pixels, as the network wants them
    last: tuple[str, ...] = ("classifier.4",)  # layers whose results are added up to the logits

    def enlarge(self, logits: Tensor) -> Tensor:
        """What the network itself does to its logits, other than plain bilinear enlarging."""
        return logits

    def features(self, state: Mapping[str, Tensor]) -> State:
        """The weights of the features, by this body's names."""
        raise NotImplementedError

    def classifier(self, state: Mapping[str, Tensor], origin: str) -> tuple[Tensor, Tensor]:
        """Weight (classes, width, 1, 1) and bias of the last layer. Raises InputError if they are not there."""
        try:
            weight = torch.cat([state[f"{name}.weight"] for name in self.last], 1)
            bias = torch.stack([state[f"{name}.bias"] for name in self.last]).sum(0)
        except KeyError as error:
            raise InputError(f"{origin} has no {error}, so it is not of the architecture given for it.") from None
        if weight.shape[1:] != (self.width, 1, 1) or len(weight) < 2:
            raise InputError(
                f"{origin}: its last layer is {tuple(weight.shape)}; only 1x1 convolutions with a channel for the "
                "background can be extended."
            )
        return weight, bias


class _Plain(_Body):
    """DeepLabV3 and FCN of torchvision: the first four layers of its head end in the features."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, nn.Sequential(*list(network.classifier)[:4])
        self.width = network.classifier[4].in_channels

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)["out"])

    def features(self, state: Mapping[str, Tensor]) -> State:
        renamed = {name.replace("classifier.", "head.", 1) if name.startswith("classifier.") else name: value
                   for name, value in state.items()}  # fmt: skip
        return {name: value for name, value in renamed.items() if not name.startswith(("head.4.", "aux_classifier."))}


class _Lraspp(_Body):
    """LR-ASPP of torchvision: its two last layers are one on both of their inputs."""

    last = ("classifier.low_classifier", "classifier.high_classifier")

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone, self.cbr, self.scale = network.backbone, network.classifier.cbr, network.classifier.scale
        heads = (network.classifier.low_classifier, network.classifier.high_classifier)
        self.width = sum(head.in_channels for head in heads)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)
        high = self.cbr(maps["high"]) * self.scale(maps["high"])
        high = F.interpolate(high, maps["low"].shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([maps["low"], high], 1)

    def features(self, state: Mapping[str, Tensor]) -> State:
        renamed = {name.removeprefix("classifier."): value for name, value in state.items()}
        return {name: value for name, value in renamed.items() if not name.startswith(("low_", "high_"))}


class _Smp(_Body):
    """Any network of smp whose head is a 1x1 convolution, such as DeepLabV3, DeepLabV3Plus and FPN."""

    last = ("segmentation_head.0",)

    def __init__(self, architecture: str) -> None:
        super().__init__()
        settings = json.loads(architecture.removeprefix(SMP))
        name = settings.pop("_model_class", "")
        made = getattr(smp, str(name), None)
        try:
            network = made(**{**settings, "encoder_weights": None})  # type: ignore[misc]  # refused below
        except Exception as error:  # every wrong setting is refused in its own way
            raise InputError(f"smp cannot make the network {name!r} of this config.json ({error}).") from None
        self.encoder, self.decoder, self.upsampling = network.encoder, network.decoder, network.segmentation_head[1]
        self.width = network.segmentation_head[0].in_channels
        self.statistics = pixel_statistics(settings.get("encoder_name", ""))

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    def enlarge(self, logits: Tensor) -> Tensor:
        """With aligned corners, which other logits are not enlarged with."""
        return self.upsampling(logits.float())

    def features(self, state: Mapping[str, Tensor]) -> State:
        return {name: value for name, value in state.items() if name.startswith(("encoder.", "decoder."))}


def _torchvision(architecture: str) -> _Body:
    name = architecture.removeprefix(TORCHVISION)
    if name not in ARCHITECTURES:
        raise InputError(f"--architecture {name!r} is unknown; {nearest(name, ARCHITECTURES)}, or smp's config.json.")
    settings: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": False}
    network = getattr(tv, name)(weights=None, weights_backbone=None, **settings)
    return _Lraspp(network) if name.startswith("lraspp") else _Plain(network)
