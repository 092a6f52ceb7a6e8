"""From statistics to projectors: which directions of a layer are free, and the part of an update that lies in them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from css.nullspace.gram import Gram, Sketch
from css.nullspace.statistics import GradientStatistics
from tasks import InputError


@dataclass(frozen=True)
class Rule:
    """How many of the directions of a layer, ordered by their eigenvalue, are protected."""

    kind: Literal["energy", "relative", "fraction", "budget", "ratio"] = "energy"
    """energy: the free directions hold at most `value` of the trace. relative: free up to `value` times the largest
    eigenvalue. fraction: this share of the directions is protected. budget: free while C0 times the largest free
    eigenvalue of the mean G G^T, which bounds (change of the loss / size of the update)^2, is at most `value` (where
    tasks were normalised, of M with trace 1). ratio: free up to `value` times the smallest eigenvalue, as Adam-NSCL
    does; where the smallest is rounding noise, next to nothing is free then. Energy and budget count what a sketch may
    have lost as free; where that alone is too much, all its directions are protected."""
    value: float = 0.05

    def __post_init__(self):
        upper = 1.0 if self.kind in ("energy", "relative", "fraction") else float("inf")
        if not 0 <= self.value <= upper:
            raise InputError(
                f"--options.rule.value {self.value:g} does not fit the {self.kind} rule; give one from 0 to {upper:g}."
            )

    def protected(self, values: Tensor, width: int, count: int, channels: int, *, delta: float = 0.0,
                  missing: float = 0.0) -> int:  # fmt: skip
        """How many of the eigenvalues (largest first; zeros may be left out) are protected; 0 if all are 0.

        `count`: how many G were added; `channels`: C0 of each; `delta`, `missing`: what a sketch lost.
        """
        values = values.double()
        largest = values[0].item() if len(values) else 0.0
        if largest <= torch.finfo(torch.float64).tiny:
            return 0
        if self.kind == "energy":
            tail = missing + values.flip(0).cumsum(0).flip(0)  # what would be free from this direction on
            return int((tail > self.value * tail[0]).sum())
        if self.kind == "relative":
            return int((values > self.value * largest).sum())
        if self.kind == "fraction":
            return min(round(self.value * width), len(values))
        if self.kind == "budget":
            return int((channels * (values + delta) / max(count, 1) > self.value).sum())
        smallest = values[-1].item() if len(values) == width else 0.0
        return int((values > self.value * smallest).sum())


@dataclass
class Projector:
    """U U^T of one layer. Its update is viewed (groups, C0 / groups, C1), a bias as the last column (`rows_of`)."""

    bases: list[Tensor]  # per group the thinner of the protected and the free orthonormal basis, (C1, r)
    holds_free: list[bool]  # whether that is the free one
    protected: list[int]
    width: int
    bound: float  # no free direction v has v^T M v above this (a sketch: with its certificate)
    damping: list[Tensor] | None = None  # soft projector: what is taken off in each direction of the basis

    @property
    def free(self) -> int:
        """Free directions, the fewest of all groups."""
        return self.width - max(self.protected)

    def to(self, like: Tensor) -> "Projector":
        """A copy on the device and in the precision of a tensor."""
        damping = None if self.damping is None else [values.to(like) for values in self.damping]
        return replace(self, bases=[basis.to(like) for basis in self.bases], damping=damping)

    @property
    def is_identity(self) -> bool:
        return not any(self.protected)

    def __call__(self, rows: Tensor) -> Tensor:
        """The free part of rows (groups, n, C1), or (n, C1) where there is one group."""
        grouped = rows if rows.dim() == 3 else rows[None]
        parts = []
        for index, (part, basis, holds_free) in enumerate(zip(grouped, self.bases, self.holds_free, strict=True)):
            basis = basis.to(part)
            coordinates = part @ basis
            if self.damping:
                coordinates = coordinates * self.damping[index].to(part)
            inside = coordinates @ basis.T
            parts.append(inside if holds_free else part - inside)
        return torch.stack(parts).view_as(rows)


def projector(statistics: GradientStatistics, rule: Rule, soft: bool = False) -> dict[str, Projector]:
    """The projector of every layer (by the name of its weight) onto its free directions.

    The identity where the statistics are zero. Of a sketch only the directions it holds can be protected. `soft`:
    (I + M / lambda)^-1 instead, lambda = the eigenvalue at which the rule cuts.
    """
    bar = tqdm(statistics.grams.items(), desc="projectors", unit="layer", leave=False, disable=None)
    return {
        name: _of_layer(grams, rule, statistics.counts[name], statistics.channels[name] // len(grams), soft)
        for name, grams in bar
    }


def _of_layer(grams: list[Gram | Sketch], rule: Rule, count: int, channels: int, soft: bool) -> Projector:
    made = Projector([], [], [], grams[0].width, 0.0, [] if soft else None)
    for gram in grams:
        values, vectors = gram.eigen()
        number = rule.protected(values, gram.width, count, channels, delta=gram.delta, missing=gram.missing)
        rest = values[number].item() if number < len(values) else 0.0
        made.bound = max(made.bound, rest + gram.delta)
        made.protected.append(number)
        if soft:
            cut = rest if rest > 0 else torch.finfo(torch.float64).tiny
            made.bases.append(_stored(vectors, gram))
            made.holds_free.append(False)
            made.damping.append(values / (values + cut) if number else torch.zeros_like(values))
            continue
        free = vectors.shape[1] == gram.width and gram.width - number < number
        made.bases.append(_stored(vectors[:, number:] if free else vectors[:, :number], gram))
        made.holds_free.append(free)
    return made


def _stored(basis: Tensor, gram: Gram | Sketch) -> Tensor:
    """float32 is enough for an update in float32; statistics in float64 keep it."""
    dtype = next(iter(gram.tensors().values())).dtype
    return basis.to(dtype).contiguous()
