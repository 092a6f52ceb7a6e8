"""SSUL's unknown class: objects on the background that no class names yet, and the heads that start from it."""

from collections.abc import Sequence
from typing import cast

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder
from torch import Tensor, nn

from css.model.segmenter import FEATURES
from css.model.state import bias_of
from plop_baseline.private_heads import PrivateBodies, body
from tasks.source import BACKGROUND, VOID


def with_unknown(labels: Tensor, saliency: Tensor) -> Tensor:
    """SSUL's targets as row numbers: 0 unknown (background that is salient), 1 background, then classes; 255 void."""
    unknown = (labels == BACKGROUND) & (saliency > 0)
    rows = torch.where(labels == VOID, labels, labels + 1)
    return rows.masked_fill(unknown, 0)


def known_or_unknown(logits: Tensor) -> Tensor:
    """Logits of the channels (B, R - 1, h, w) from SSUL's rows [unknown, background, classes] (B, R, h, w).

    The background's score is the sum of the first two sigmoids, kept above 0 and below 1. In float32 at least: near 1,
    bfloat16 has no score that a class could not exceed.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    limits = torch.finfo(logits.dtype)
    score = logits[:, :2].sigmoid().sum(1, keepdim=True)
    return torch.cat([torch.logit(score.clamp(limits.tiny, 1 - limits.eps)), logits[:, 2:]], 1)


@torch.no_grad()
def start_as(new: nn.Sequential, other: nn.Sequential) -> None:
    """A new head starts as another one, BatchNorm's statistics included; every row of its 1x1 is the other's first."""
    new[:-1].load_state_dict(other[:-1].state_dict())
    rows, row = cast("nn.Conv2d", new[-1]), cast("nn.Conv2d", other[-1])
    rows.weight.copy_(row.weight[:1].expand_as(rows.weight))
    bias_of(rows).copy_(bias_of(row)[:1].expand_as(bias_of(rows)))


class KnownAndUnknown(PrivateBodies):
    """Beside the heads of the tasks one of the unknown class and one of the background, a single row each.

    The background's row of the first classifier is what a soft-max learnt; it only serves as zero of its classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unknown, self.background = _single_row(), _single_row()

    def start(self, decoder: DeepLabV3Decoder) -> None:
        """Both have the first body, after a first task that was learnt without them."""
        for head in (self.unknown, self.background):
            head[0].load_state_dict(decoder.conv.state_dict())
            head[1].load_state_dict(decoder.bn.state_dict())

    def grow_as_unknown(self, decoder: DeepLabV3Decoder, newest: nn.Conv2d) -> None:
        """The head of a new task starts as that of the unknown class."""
        self.grow(decoder)
        start_as(nn.Sequential(*cast("nn.Sequential", self.bodies[-1]), newest), self.unknown)

    def rows(self, decoder: DeepLabV3Decoder, classifiers: nn.ModuleList, shared: Tensor) -> Tensor:
        """[unknown, background, classes] (B, R, h, w) of the maps of the ASPP (B, 256, h, w)."""
        first, *later = self.heads(self.maps(decoder, shared), classifiers)
        binary = first[:, 1:] - first[:, :1].detach()
        return torch.cat([self.unknown(shared), self.background(shared), binary, *later], 1)

    def forward(
        self, decoder: nn.Module, classifiers: nn.ModuleList, stages: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The maps of the ASPP (B, 256, h, w) and logits (B, seen classes, h, w)."""
        assert isinstance(decoder, DeepLabV3Decoder)
        shared = decoder.aspp(stages[-1])
        return shared, known_or_unknown(self.rows(decoder, classifiers, shared))


def _single_row() -> nn.Sequential:
    head = nn.Sequential(*body(FEATURES), nn.Conv2d(FEATURES, 1, 1))
    initialize_decoder(head)
    initialize_head(head[-1])
    return head
