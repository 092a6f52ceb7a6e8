"""What methods with a head of its own for every task share (SSUL, BARM): a 3x3 convolution, BatchNorm, ReLU each."""

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder
from torch import Tensor, nn
from torch.nn import functional as F

from css.model.segmenter import FEATURES, SharedFeatures
from plop_baseline.sigmoid_rows import soft_bce
from tasks.source import BACKGROUND, VOID


def body(width: int) -> list[nn.Module]:
    """From `width` maps to as many."""
    return [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class PrivateBodies(SharedFeatures):
    """Every task after the first has a body of its own on the maps of the ASPP; the first one's is the decoder's.

    The features of the output are those maps, which all bodies share.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bodies = nn.ModuleList()  # of the tasks after the first

    def grow(self, decoder: DeepLabV3Decoder, copy_statistics: bool = True) -> None:
        """One more body, a copy of the first; BatchNorm's running statistics may be left at 0 and 1."""
        new = nn.Sequential(*body(FEATURES)).to(decoder.conv.weight.device)
        new[0].load_state_dict(decoder.conv.state_dict())
        statistics = decoder.bn.state_dict() if copy_statistics else dict(decoder.bn.named_parameters())
        new[1].load_state_dict(statistics, strict=copy_statistics)
        self.bodies.append(new.to(memory_format=torch.channels_last))

    def maps(self, decoder: DeepLabV3Decoder, shared: Tensor) -> list[Tensor]:
        """What every body makes of the shared maps, the first task's first."""
        return [decoder.relu(decoder.bn(decoder.conv(shared))), *(of(shared) for of in self.bodies)]

    def heads(self, maps: list[Tensor], classifiers: nn.ModuleList) -> list[Tensor]:
        """The rows of every task."""
        return [classify(seen) for classify, seen in zip(classifiers, maps, strict=True)]

    def join(self, heads: list[Tensor]) -> Tensor:
        """Logits of all channels."""
        return torch.cat(heads, 1)

    def forward(
        self, decoder: nn.Module, classifiers: nn.ModuleList, stages: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The maps of the ASPP (B, 256, h, w) and logits (B, seen classes, h, w)."""
        assert isinstance(decoder, DeepLabV3Decoder)
        shared = decoder.aspp(stages[-1])
        return shared, self.join(self.heads(self.maps(decoder, shared), classifiers))


def all_rows_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over the rows, mean over the pixels that are not void (0 if there are none).

    logits (B, R, H, W) at the size of targets (B, H, W), which hold row numbers and 255.
    """
    rows = torch.arange(logits.shape[1], device=targets.device)
    positive = targets.unsqueeze(1) == rows[:, None, None]
    loss = torch.where(positive, F.softplus(-logits), F.softplus(logits)).sum(1)
    valid = targets != VOID
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def sure_labels(logits: Tensor, labels: Tensor, threshold: float, first_class: int = 1) -> Tensor:
    """The row of an old class where the label is below `first_class` and the old model is sure; else the label.

    Below `first_class` are background and unknown. Sure is the old model where its largest sigmoid is that of a class
    and at least `threshold`. logits (B, R, H, W) of the old model at the size of labels (B, H, W).
    """
    confidence, answer = logits.sigmoid().max(1)
    taken = (labels < first_class) & (answer >= first_class) & (confidence >= threshold)
    return torch.where(taken, answer.to(labels.dtype), labels)


def unified_background(logits: list[Tensor], training: bool) -> Tensor:
    """Logits of all channels (B, C, h, w) from those of BARM's heads: [b, classes], then [r_t, classes] for every task.

    The background's is b + sum of min(0, r_t). In training the newest r_t is not cut at 0, and of all rows only those
    of the newest head have a gradient. Source: BARM, Eq. 3.
    """
    *old, newest = logits
    if not old:
        return newest
    if training:
        old = [head.detach() for head in old]
    background = old[0][:, :1] + sum(head[:, :1].clamp(max=0) for head in old[1:])
    background = background + (newest[:, :1] if training else newest[:, :1].clamp(max=0))
    return torch.cat([background, *(head[:, 1:] for head in (*old, newest))], 1)


def adaptation_losses(change: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What the newest r (B, h, w) learns: nothing on background, and "not background" on new classes.

    labels (B, h, w) without pseudo labels: 0, new classes, 255. "background": mean over its places of
    max(0, 1 - 2 sigmoid(r)); "new": mean of softplus(r). A batch without such places has 0; the released code
    divides 0 by 0 for the background. Source: BARM, Eq. 5 and 6.
    """
    background = labels == BACKGROUND
    new = ~background & (labels != VOID)
    too_low = (1 - 2 * change.sigmoid()).clamp(min=0)
    return {
        "background": (too_low * background).sum() / background.sum().clamp(min=1),
        "new": (F.softplus(change) * new).sum() / (new.sum() + 1e-8),
    }


def body_distance(bodies: list[Tensor], old_bodies: list[Tensor], background: Tensor) -> Tensor:
    """Squared change of the maps of the old bodies on background (B, h, w), mean over all elements, summed over bodies.

    Source: BARM, Eq. 8, with the mean of the official code.
    """
    mask = background.unsqueeze(1)
    pairs = zip(bodies, old_bodies, strict=True)
    return torch.stack([((new - old) * mask).square().mean() for new, old in pairs]).sum()


def head_distillation(heads: list[Tensor], old_heads: list[Tensor]) -> Tensor:
    """Binary cross-entropy of every row of the old heads to the old model's sigmoid, mean over places, summed."""
    pairs = zip(heads, old_heads, strict=True)
    return torch.stack([soft_bce(new, old).sum() for new, old in pairs]).sum()
