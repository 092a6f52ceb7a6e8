"""The network of a classification stream: a pre-activation ResNet-18 for small images, with a head for every task."""

import copy
import itertools
import re
from collections.abc import Sequence

import torch
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import nn
from torch.nn import functional as F

from css.model.output import Output
from tasks.errors import InputError


class Classifier(nn.Module):
    """Multi-head (task-incremental) classifier with the face of `css.model.Segmenter`.

    An image label is a label map of one pixel, so logits are (B, C, 1, 1).

    The logits are the log-probabilities of each head by itself. A soft-max over all channels is then that of every head
    divided by the number of heads: cross-entropy is that of the label's own head plus a constant (the logarithm of the
    number of heads), and a KL divergence is the mean over the heads. So losses made of soft-maxes need not know heads.

    `encoder`: "preact18", or "preact18-N" with N channels in the first stage (64). `groups`: the classes of every head,
    raw ids; `grow` adds the heads of its classes and freezes the older ones (no image of theirs comes again).
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor
    hidden: None = None  # its heads see the features alone

    def __init__(
        self, encoder: str, groups: Sequence[Sequence[int]], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.encoder = PreActResNet18(width_of(encoder))
        self.groups = [list(group) for group in groups]
        self.classifiers = nn.ModuleList()
        self.classes: list[int] = []  # raw class id of every output channel
        self.register_buffer("pixel_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> Output:
        """Output of (B, 3, H, W), H and W multiples of 8: features (B, 8 N, 1, 1), taps = the sums after each stage."""
        taps = self.encoder(images)
        features = F.adaptive_avg_pool2d(self.encoder.last(taps[-1]), 1)
        return Output(self.classify(features), features, taps)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, 1, 1) of features (B, 8 N, 1, 1)."""
        return torch.cat([head(features).float().log_softmax(1) for head in self.classifiers], dim=1)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) to about zero mean and unit deviation, channels last."""
        images = images.to(self.pixel_mean.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        return (images.float() / 255 - self.pixel_mean) / self.pixel_std

    def grow(self, new_classes: Sequence[int]) -> None:
        """Adds a head for each group within `new_classes`: one for a task, all at once for joint training.

        Raises ValueError for a class that has a head, or for classes that are not those of whole heads.
        """
        if repeated := set(new_classes) & set(self.classes):
            raise ValueError(f"classes {sorted(repeated)} have a head already")
        added = [group for group in self.groups if set(group) <= set(new_classes)]
        if [class_id for group in added for class_id in group] != list(new_classes):
            raise ValueError(f"classes {list(new_classes)} are not the classes of whole heads")
        self.classifiers.requires_grad_(False)
        for group in added:
            head = nn.Conv2d(self.encoder.features, len(group), 1).to(self.pixel_mean)
            initialize_head(head)
            self.classifiers.append(head.to(memory_format=torch.channels_last))
        self.classes += new_classes

    def head_of(self) -> torch.Tensor:
        """Number of the head of every output channel, int64 (C,)."""
        sizes = torch.tensor([head.out_channels for head in self.classifiers])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def frozen(self) -> "Classifier":
        """A copy that never changes, in evaluation mode: the teacher of the next task."""
        return copy.deepcopy(self).eval().requires_grad_(False)


class PreActResNet18(nn.Module):
    """ResNet-18 with BatchNorm and ReLU before each convolution (He et al., ECCV 2016).

    The first convolution is 3x3 at stride 1 and there is no pooling: output stride 8. 11.2 million parameters at width
    64, as in Adam-NSCL.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.features = 8 * width
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(before, after, 1 if stage == 0 else 2), _Block(after, after, 1))
            for stage, (before, after) in enumerate(itertools.pairwise(channels))
        )
        self.last = nn.Sequential(nn.BatchNorm2d(self.features), nn.ReLU())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The sum at the end of every stage: (B, 1, 2, 4, 8 times the width, h, w), h = H at first, then half each."""
        x, sums = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            sums.append(x)
        return tuple(sums)


class _Block(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))); where the shape changes, a 1x1 convolution of relu(bn(x)) instead of x."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.shortcut, self.stride = None if same else nn.Conv2d(before, after, 1, bias=False), stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.bn1(x).relu()
        # Strided by hand: the gradient of a strided 1x1 convolution of 8 channels, channels last, crashes on some CPUs.
        passed = x if self.shortcut is None else self.shortcut(activated[..., :: self.stride, :: self.stride])
        return passed + self.conv2(self.bn2(self.conv1(activated)).relu())


def width_of(encoder: str) -> int:
    """N of "preact18-N". Raises InputError for another name."""
    match = re.fullmatch(r"preact18(?:-([1-9][0-9]*))?", encoder)
    if match is None:
        raise InputError(
            f"--model.encoder {encoder} is no network for image labels: give preact18, or preact18-N with N channels "
            "in the first stage instead of 64."
        )
    return int(match[1] or 64)
