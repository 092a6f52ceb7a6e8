"""Losses that every method starts from."""

import torch
from torch.nn import functional as F

from tasks.source import VOID


def upsample(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, h, w) at the size of labels (B, H, W), bilinear without aligned corners, in float32."""
    if logits.shape[-2:] == labels.shape[-2:]:  # up-sampled before, by a method that needs them for other terms, too
        return logits.float()
    return F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over *all* pixels, void ones counted in the denominator (as published for PLOP and MiB).

    logits (B, C, h, w) at any resolution, labels (B, H, W) with 255 for void.
    """
    return F.cross_entropy(upsample(logits, labels), labels.long(), ignore_index=VOID, reduction="sum") / labels.numel()
