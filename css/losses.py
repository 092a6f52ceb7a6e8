"""Losses that every method starts from."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.source import VOID

ROWS_FROM = 16  # channels, a vector register's worth (AVX-512): with fewer, a soft-max over rows is the slower one


def upsample(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, h, w) at the size of labels (B, H, W), bilinear without aligned corners, at least in float32."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.shape[-2:] == labels.shape[-2:]:  # up-sampled before, by a method that needs them for other terms, too
        return logits
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


def at_places(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Label maps (B, H, W) at the middle of the cells of a grid (h, w) of features, whose multiple their size is."""
    height, width = (of // to for of, to in zip(maps.shape[-2:], size, strict=True))
    return maps[:, height // 2 :: height, width // 2 :: width]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over *all* pixels, void ones counted in the denominator (as published for PLOP and MiB).

    logits (B, C, h, w) at any resolution, labels (B, H, W) with 255 for void.
    """
    return pixel_cross_entropy(upsample(logits, labels), labels, "sum") / labels.numel()


def pixel_cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
    """Cross-entropy of pixels, 0 where void, in their order: logits (B, C, H, W), labels (B, H, W). Or their sum."""
    rows = in_rows(logits)
    targets = labels.long().reshape(rows.shape[:1] + rows.shape[2:])
    return F.cross_entropy(rows, targets, ignore_index=VOID, reduction=reduction)


def in_rows(logits: Tensor) -> Tensor:
    """Logits (B, C, ...) as (pixels, C) where that is faster to go on with: on a CPU, with many channels.

    Maps that are channels last lie so in memory; a soft-max over dimension 1 would copy them first.
    """
    if logits.device.type != "cpu" or logits.shape[1] < ROWS_FROM:
        return logits
    return logits.movedim(1, -1).flatten(0, -2)


def kl_divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher || model), mean over pixels or samples, of logits (N, C, ...). The teacher is a constant."""
    return _mean_kl(teacher, _log_softmax(logits))


def background_kl(teacher: Tensor, logits: Tensor, num_old: int) -> Tensor:
    """KL(teacher || model) over the old channels, the model's new classes counted as background (channel 0).

    To the teacher they were background; so probability that moves from there to a new class costs nothing (as in MiB's
    unbiased distillation). teacher (N, num_old, ...), logits (N, C >= num_old, ...).
    """
    log_q = _log_softmax(logits)
    background = torch.cat([log_q[:, :1], log_q[:, num_old:]], dim=1).logsumexp(1, keepdim=True)
    log_q = torch.cat([background, log_q[:, 1:num_old]], dim=1)
    return _mean_kl(teacher, log_q)


def _mean_kl(teacher: Tensor, log_q: Tensor) -> Tensor:
    log_p = _log_softmax(teacher.detach())
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _log_softmax(logits: Tensor) -> Tensor:
    """In single precision at least: autocast leaves the logits in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
