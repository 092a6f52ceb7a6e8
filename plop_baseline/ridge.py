"""Random features and a ridge classifier in closed form (CFSSeg; ACIL, Zhuang et al., NeurIPS 2022)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.source import BACKGROUND


def expanded(features: Tensor, projection: Tensor) -> Tensor:
    """Random features relu(P f): (N, d) of features (N, D), with P (d, D)."""
    return F.linear(features, projection).relu()


def random_projection(number: int, width: int, seed: int) -> Tensor:
    """P, float32 (number, width), uniform between -1 / sqrt(width) and 1 / sqrt(width): 1/16 for 256 features."""
    bound = width**-0.5
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(number, width).uniform_(-bound, bound, generator=generator)


class RidgeSums:
    """G = sum e e^T and C = sum e y^T over all places seen so far, float64; y is the one-hot of a channel.

    The classifier is a function of these sums: it does not depend on the order of tasks but for their channels.
    """

    def __init__(self, square: Tensor, cross: Tensor) -> None:
        self.square, self.cross = square, cross  # (d, d), (d, channels)

    @classmethod
    def empty(cls, number: int) -> "RidgeSums":
        """Of no place and no channel, for `number` random features."""
        return cls(torch.zeros(number, number, dtype=torch.float64), torch.zeros(number, 0, dtype=torch.float64))

    def update(self, features: Tensor, labels: Tensor, channels: int) -> None:
        """Random features (N, d) of places with the labels (N,), below `channels` or void."""
        counted = labels < channels
        features, labels = features[counted].double(), labels[counted].long()
        self.add(RidgeSums(features.T @ features, features.T @ F.one_hot(labels, channels).double()))

    def add(self, other: "RidgeSums") -> None:
        """Those of other places; either may know more channels."""
        self.square = self.square.to(other.square.device) + other.square
        channels = max(self.cross.shape[1], other.cross.shape[1])
        mine, theirs = (F.pad(of.cross, (0, channels - of.cross.shape[1])) for of in (self, other))
        self.cross = mine.to(theirs.device) + theirs

    def weight(self, gamma: float) -> Tensor:
        """(G + gamma I)^-1 C, (d, channels); gamma must be above 0."""
        square = self.square.clone()
        square.diagonal().add_(gamma)
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(square))


def confident_answers(outputs: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Labels (B, H, W) in which background pixels have the class that the ridge classifier is sure of.

    outputs (B, C, h, w) aim at 0 and 1; sure is a sigmoid, up-sampled, of at least `threshold` (0.6: an output of
    0.41; 0.7: 0.85). Source: CFSSeg, section 3.4.
    """
    probability = F.interpolate(outputs.sigmoid(), labels.shape[-2:], mode="bilinear", align_corners=False)
    confidence, answer = probability.max(1)
    taken = (labels == BACKGROUND) & (answer != BACKGROUND) & (confidence >= threshold)
    return torch.where(taken, answer.to(labels.dtype), labels)
