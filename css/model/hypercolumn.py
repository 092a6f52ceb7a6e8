"""Hypercolumns: what every stage of the network says of a place, as a few hundred numbers (Hariharan, CVPR 2015)."""

from collections.abc import Mapping, Sequence

import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional as F

COMPONENTS = 512  # numbers per place, if the stages have so many channels together


class Hypercolumn(nn.Module):
    """The maps of several stages, pooled to the last one's size, side by side, on fixed orthonormal directions.

    With x a place's channels of all stages (D numbers): z = directions^T (x / scale - mean). Part of the model's state.
    """

    scale: Tensor  # (D,), the root mean square of a channel's stage, times one number for all
    mean: Tensor  # (D,), of x / scale
    directions: Tensor  # (D, k), orthonormal columns
    own_weight: Tensor  # (N, channels of the last stage), of the classifier that the network was trained with
    own_bias: Tensor  # (N,)

    def __init__(self, scale: Tensor, mean: Tensor, directions: Tensor, own_weight: Tensor, own_bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())
        self.register_buffer("mean", mean.float())
        self.register_buffer("directions", directions.float())
        self.register_buffer("own_weight", own_weight.float())  # what a method borrows that does not see hypercolumns
        self.register_buffer("own_bias", own_bias.float())

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], prefix: str) -> "Hypercolumn | None":
        """That of a network's state, if it has one."""
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        return cls(**found) if found else None

    @property
    def width(self) -> int:
        """Numbers per place, k."""
        return self.directions.shape[1]

    def own_classifier(self) -> tuple[Tensor, Tensor]:
        """The classifier of the last stage as one of hypercolumns, whose directions span its rows: (N, k) and (N,)."""
        width = self.own_weight.shape[1]
        rows = self.own_weight * self.scale[-width:]
        return rows @ self.directions[-width:], self.own_bias + rows @ self.mean[-width:]

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Stages (B, D_i, H_i, W_i), those of the last one as large as it or larger, to float32 (B, k, h, w)."""
        with torch.autocast(stages[-1].device.type, enabled=False):  # small components would drown in rounding
            weight = (self.directions / self.scale[:, None]).T
            return F.conv2d(columns(stages), weight[:, :, None, None], -(self.mean @ self.directions))


def columns(stages: Sequence[Tensor]) -> Tensor:
    """Float32 (B, D, h, w), D channels of all stages: each pooled (mean) to the size of the last one."""
    height, width = stages[-1].shape[-2:]
    return torch.cat([F.adaptive_avg_pool2d(stage.float(), (height, width)) for stage in stages], dim=1)


def fit_directions(moments: Tensor, widths: Sequence[int], own: tuple[Tensor, Tensor], number: int) -> Hypercolumn:
    """Directions for columns whose moments are the sum of [x, 1] [x, 1]^T, float64 (D + 1, D + 1).

    `widths`: channels of every stage, D together. `own`: weight (N, widths[-1]) and bias (N,) of a classifier of the
    last stage. Its rows come first, so that its answers stay affine functions of what is kept; then the principal
    components of what they leave, `number` directions together (or D).
    """
    places = moments[-1, -1]
    raw, mean = moments[:-1, :-1] / places, moments[:-1, -1] / places
    energies = [part.mean().expand(len(part)) for part in raw.diagonal().split(list(widths))]
    scale = torch.cat(energies).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    mean = mean / scale
    covariance = raw / scale / scale[:, None] - mean * mean[:, None]
    rows = F.pad(own[0].double(), (len(scale) - own[0].shape[1], 0)) * scale
    known = torch.linalg.qr(rows.T)[0]
    rest = covariance - known @ (known.T @ covariance)
    rest = rest - (rest @ known) @ known.T
    components = _principal(rest, min(number, len(scale)) - known.shape[1])
    directions = torch.linalg.qr(torch.cat([known, components], dim=1))[0]  # orthonormal where channels are dead, too
    spread = (directions * (covariance @ directions)).sum(0).mean().sqrt()  # so that variances are 1 on average
    return Hypercolumn(scale * spread, mean / spread, directions, *own)


def _principal(covariance: Tensor, number: int) -> Tensor:
    """The eigenvectors (D, number) of the largest eigenvalues, these falling."""
    size = len(covariance)
    vectors = scipy.linalg.eigh(covariance.numpy(), subset_by_index=[size - number, size - 1])[1]
    return torch.from_numpy(vectors).flip(1)
