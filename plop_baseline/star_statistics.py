"""What STAR (Chen et al., NeurIPS 2023) keeps of every class, 2 D + 3 numbers, and the features drawn from it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class FeatureSums:
    """Sums over the features f of every channel, in float64: their number, f/|f|, its squares, |f| and its square."""

    def __init__(self, channels: int, width: int) -> None:
        self.sums = torch.zeros(channels, 2 * width + 3, dtype=torch.float64)
        self.width = width

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Features (N, D) of the channels `labels` (N,); other labels (void) enter nothing."""
        counted = labels < len(self.sums)
        features, labels = features[counted].double(), labels[counted].long()
        directions, norms = F.normalize(features, dim=1), features.norm(dim=1, keepdim=True)
        rows = torch.cat([directions, directions.square(), norms, norms.square(), torch.ones_like(norms)], 1)
        self.sums += torch.zeros_like(self.sums, device=rows.device).index_add_(0, labels, rows).to(self.sums.device)

    @property
    def numbers(self) -> Tensor:
        """Features of every channel, (channels,)."""
        return self.sums[:, -1]

    def statistics(self, first: int, noise_around: Tensor | None = None) -> "ClassStatistics":
        """Of the channels from `first` on.

        Noise is measured around their own prototypes, or around those given (N, D), as the released code does. A class
        without a feature has zeros, one with a single feature no spread.
        """
        directions, squares, norms = self.sums[first:].split([self.width, self.width, 3], 1)
        norm_sum, norm_squares, number = norms.unbind(1)
        at_least_one = number.clamp(min=1)
        mean = norm_sum / at_least_one
        variance = (norm_squares - norm_sum * mean) / (number - 1).clamp(min=1)
        prototypes = F.normalize(directions, dim=1)
        centre = prototypes if noise_around is None else noise_around
        around = (squares - 2 * centre * directions) / at_least_one[:, None] + centre.square()
        noise = around.clamp(min=0).sqrt() * (number > 0)[:, None]
        return ClassStatistics(number, prototypes, mean, variance.clamp(min=0).sqrt(), noise)


class ClassStatistics(NamedTuple):
    """Of the features of every class, the background left out."""

    numbers: Tensor  # (C,), places
    prototypes: Tensor  # (C, D), mean direction
    norm_mean: Tensor  # (C,)
    norm_std: Tensor  # (C,)
    noise: Tensor  # (C, D), spread of the directions

    def joined(self, newer: "ClassStatistics") -> "ClassStatistics":
        """Of these classes, then of newer ones."""
        return ClassStatistics(*(torch.cat(pair) for pair in zip(self, newer, strict=True)))

    def draw(self, numbers: Sequence[int], noise: Tensor, norm_noise: Tensor) -> Tensor:
        """Features (N, D), class after class: (p + d * e) * (m + s * e'). Source: STAR, Eq. 4 and 5.

        numbers: how many of each class, N together. noise (N, D) and norm_noise are standard normal; norm_noise (N, 1)
        draws one norm a feature, (N, D) one factor a dimension, as the released code does.
        """
        classes = torch.arange(len(self.prototypes), device=noise.device)
        drawn = torch.repeat_interleave(classes, torch.as_tensor(numbers, device=noise.device))
        directions = self.prototypes[drawn] + self.noise[drawn] * noise
        return directions * (self.norm_mean[drawn, None] + self.norm_std[drawn, None] * norm_noise)


class Plan(NamedTuple):
    """How much a batch lacks of what older tasks have shown."""

    draws: list[int]  # features of every old class
    background: float  # weight of the places of background, per place


def plan(numbers: Tensor, predicted: Tensor, batches: int, new: int, disjoint: bool) -> Plan:
    """For one epoch of `batches` batches of a task with `new` classes.

    numbers (C_old,): places of the background and of every old class in the tasks so far; predicted (C_old,): places
    of background in this one that the old model calls background and so on. Source: STAR, section 3.3; the numbers
    0.01 and 0.5 are the official code's. Without a predicted place of background there is none to weigh.
    """
    seen = predicted[0].item()
    if disjoint:
        return Plan((numbers[1:] / batches).trunc().long().tolist(), numbers[0].item() / seen if seen else 0.0)
    lacking = ((numbers[1:] - predicted[1:]) / batches).trunc().clamp(min=0)
    ratio = max(0.0, _still_background(numbers, new) / seen - 0.5) if seen else 0.0
    return Plan(lacking.long().tolist(), ratio)


def numbers_after(numbers: Tensor, predicted: Tensor, fresh: Tensor, new: int, disjoint: bool) -> Tensor:
    """What the next task will take as `numbers`; `fresh` (new,) are the places of the new classes."""
    if disjoint:
        return torch.cat([numbers + predicted, fresh])
    background = 0.5 * predicted[:1] + _still_background(numbers, new)
    return torch.cat([background, numbers[1:], fresh])


def _still_background(numbers: Tensor, new: int) -> float:
    """Every new class was background before: one place in a hundred, by the official code."""
    return numbers[0].item() * (1 - 0.01 * new)
