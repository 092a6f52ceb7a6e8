"""Local POD, the feature distillation of PLOP (Douillard et al., CVPR 2021, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plop_baseline.regions import SCALES, distance, require_scale


def local_pod(x: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Local POD embedding of a map: width and height means of every region of an s x s grid, for every scale s.

    x: (B, C, H, W), raw or already squared; nothing is squared or normalised here. With k_h = H // s and k_w = W // s,
    each region (row-major) contributes its means over the width (C * k_h numbers, channel-major), then its means over
    the height (C * k_w numbers). Rows and columns beyond s * k_h and s * k_w belong to no region.

    Returns (B, D) in float32, or float64 for a float64 map; D = 7 * C * (H + W) when 4 divides H and W.
    Raises InputError if the map is smaller than the largest scale. Source: PLOP, section 3.2.
    """
    height, width = x.shape[2:]
    require_scale((height, width), max(scales))
    x, parts = _full_precision(x), []
    for s in scales:
        inside = x[:, :, : height // s * s, : width // s * s].unflatten(3, (s, -1)).unflatten(2, (s, -1))
        regions = inside.permute(0, 2, 4, 1, 3, 5)  # (B, row, column, C, k_h, k_w)
        parts.append(torch.cat([regions.mean(5).flatten(3), regions.mean(4).flatten(3)], dim=3).flatten(1))
    return torch.cat(parts, dim=1)


def pod_loss(
    old_maps: Sequence[Tensor],
    new_maps: Sequence[Tensor],
    num_seen: int,
    num_new: int,
    factor: float = 0.01,
    logits_factor: float = 5e-4,
) -> Tensor:
    """Local POD distillation between the maps of the old and of the new model.

    old_maps, new_maps: pairs of (B, C, H, W); the last pair holds the low-resolution logits, where the new model has
    more channels. num_seen counts the background and the new classes. Returns the scalar

        1/L * sum over the L maps of lambda * sqrt(num_seen / num_new) * mean over images of ||Phi(old^2) - Phi(new^2)||

    with Phi = `local_pod`, the Euclidean norm, and lambda = logits_factor for the logits, factor for the other maps.
    Where the old and the new map agree, the gradient is zero.
    Raises ValueError for maps that do not match, InputError for maps smaller than 4 x 4.
    Source: PLOP, section 3.2, with the norm, weights and logits of the official code.
    """
    *features, logits = zip(old_maps, new_maps, strict=True)
    old_logits, new_logits = logits
    collapsed = _background_absorbs_new_classes(new_logits, old_logits.shape[1])
    total = logits_factor * _distance(old_logits, collapsed)
    for old, new in features:
        total = total + factor * _distance(old, new)
    return (num_seen / num_new) ** 0.5 * total / len(old_maps)


def _background_absorbs_new_classes(logits: Tensor, num_old: int) -> Tensor:
    """(B, num_seen, H, W) -> (B, num_old, H, W): to the old model, an object of a new class is background."""
    logits = _full_precision(logits)
    background = logits[:, :1] + logits[:, num_old:].sum(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:num_old]], dim=1)


def _distance(old: Tensor, new: Tensor) -> Tensor:
    """Mean over images of ||Phi(old^2) - Phi(new^2)||; the norm does not see the order of Phi's entries."""
    if old.shape != new.shape:
        raise ValueError(f"Local POD needs maps of equal shape, got {tuple(old.shape)} and {tuple(new.shape)}.")
    return distance(old, new).mean()


def _full_precision(x: Tensor) -> Tensor:
    """bf16 and fp16 to float32: squares of half-precision maps overflow or lose the difference of the two models."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
