"""What is kept of the features of old classes: number, mean and covariance; features are drawn from them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RIDGE = 0.01  # pulls the drift to the identity; in units of the mean square of a feature


class FeatureMoments:
    """Per channel the sum of [x, 1] [x, 1]^T over features x: their number, sum and second moments in one matrix.

    `sums`: float64 (channels, D + 1, D + 1).
    """

    def __init__(self, sums: Tensor | None = None) -> None:
        self.sums = torch.zeros(0, 0, 0, dtype=torch.float64) if sums is None else sums

    def update(self, features: Tensor, answers: Tensor, channels: int) -> None:
        """Counts features (N, D) of the channels `answers` (N,), of which there are `channels`."""
        extended = extend(features.double())
        of_channel = [extended[answers == channel] for channel in range(channels)]
        self.add(FeatureMoments(torch.stack([some.T @ some for some in of_channel]).cpu()))

    def add(self, other: "FeatureMoments") -> None:
        """Those of further images, which may know more channels."""
        sums = other.sums.clone()
        if len(self.sums):
            sums[: len(self.sums)] += self.sums
        self.sums = sums

    def moved(self, drift: Tensor) -> "FeatureMoments":
        """Of drift [x, 1] in place of [x, 1]; `drift` (D + 1, D + 1) as of `fit_drift`."""
        return FeatureMoments(drift @ self.sums @ drift.T)

    def packed(self) -> Tensor:
        """What is kept of them on disk: each symmetric matrix once, float32 (channels, (D + 1) (D + 2) / 2)."""
        upper = torch.triu_indices(*self.sums.shape[1:])
        return self.sums[:, upper[0], upper[1]].float()

    @classmethod
    def unpacked(cls, packed: Tensor) -> "FeatureMoments":
        """From what `packed` returned, or from `sums` as they are, which version 0.1 kept."""
        if packed.dim() == 3:
            return cls(packed)
        side = math.isqrt(2 * packed.shape[1])
        upper = torch.triu_indices(side, side)
        sums = torch.zeros(len(packed), side, side, dtype=torch.float64)
        sums[:, upper[0], upper[1]] = packed.double()
        sums[:, upper[1], upper[0]] = packed.double()
        return cls(sums)

    @property
    def counts(self) -> Tensor:
        """Features per channel, float64 (channels,)."""
        return self.sums[:, -1, -1]

    def gaussians(self, lowest: float = 0.0) -> "Gaussians":
        """Of every channel; `lowest` is the smallest value that a feature can have: 0 after a ReLU."""
        number = self.counts.clamp(min=1)[:, None, None]
        mean, square = self.sums[:, -1:, :-1] / number, self.sums[:, :-1, :-1] / number
        values, vectors = torch.linalg.eigh(square - mean.mT @ mean)
        roots = vectors * values.clamp(min=0).sqrt()[:, None, :]
        return Gaussians(self.counts.float(), mean[:, 0].float(), roots.float(), lowest)


class Gaussians(NamedTuple):
    """Of the features of every channel."""

    counts: Tensor  # (channels,), how often a channel is drawn, relatively
    mean: Tensor  # (channels, D)
    root: Tensor  # (channels, D, D), root root^T = covariance
    lowest: float = 0.0  # value of a feature: what a ReLU leaves is not negative

    def sample(self, number: int) -> Tensor:
        """Features (number, D) of all channels, by channel.

        A channel that was never counted is never drawn; `number` may be 0, and must be if none was counted.
        """
        if not number:
            return self.mean[:0]
        channels = torch.multinomial(self.counts, number, replacement=True)
        noise = torch.randn(number, self.mean.shape[1])
        numbers = channels.bincount(minlength=len(self.counts)).tolist()
        parts = zip(self.mean, noise.split(numbers), self.root, strict=True)
        return torch.cat([mean + some @ root.T for mean, some, root in parts]).clamp(min=self.lowest)


def fit_drift(before: Tensor, after: Tensor) -> Tensor:
    """The matrix that carries [x, 1], x in `before` (N, D), next to [y, 1], y in `after` (N, D).

    Least squares, with a ridge that pulls it to the identity where nothing is seen (drift compensation; LDC, arXiv
    2407.08536). Float64 (D + 1, D + 1); the identity without features, or if all are 0.
    """
    if not before.any():
        return torch.eye(before.shape[1] + 1, dtype=torch.float64)
    x, change = extend(before.double()), after.double() - before.double()
    square = x.T @ x
    square.diagonal().add_(RIDGE * before.double().square().mean() * len(x))
    drift = torch.eye(len(square), dtype=torch.float64)
    drift[:-1] += torch.linalg.solve(square, x.T @ change).T
    return drift


def extend(features: Tensor) -> Tensor:
    """[x, 1] of every row."""
    return F.pad(features, (0, 1), value=1.0)
