"""From statistics to projectors: which directions of a layer are free, and the part of an update that lies in them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from css.nullspace.gram import Gram, Sketch
from css.nullspace.statistics import GradientStatistics
from tasks import InputError


@dataclass(frozen=True)
class Rule:
    """How many of the directions of a layer, ordered by their eigenvalue, are protected.

    Raises:
        InputError: a value that does not fit the rule.
    """

    kind: Literal["energy", "relative", "fraction", "budget", "ratio"] = "energy"
    """energy: the free directions hold at most `value` of the trace. relative: free up to `value` times the largest
    eigenvalue. fraction: this share of the directions is protected. budget: free while C0 times the largest free
    eigenvalue of the mean G G^T, which bounds (change of the loss / size of the update)^2, is at most `value` (where
    tasks were normalised, of M with trace 1). ratio: free up to `value` times the smallest eigenvalue, as Adam-NSCL
    does; where the smallest is rounding noise, next to nothing is free then. Energy and budget count what a sketch may
    have lost as free; where that alone is too much, all its directions are protected."""
    value: float = 0.05

    def __post_init__(self) -> None:
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

    basis: Tensor  # (groups, C1, r): per group orthonormal columns, filled up with zeros to those of the largest group
    holds_free: bool  # of the free directions; else of the protected ones: the thinner of the two
    protected: list[int]  # of each group
    bound: float  # no free direction v has v^T M v above this (a sketch: with its certificate)
    damping: Tensor | None = None  # soft projector: what is taken off in each direction of the basis, (groups, 1, r)

    @property
    def free(self) -> int:
        """Free directions, the fewest of all groups."""
        return self.basis.shape[1] - max(self.protected)

    def to(self, like: Tensor) -> "Projector":
        """A copy on the device and in the precision of a tensor."""
        return replace(self, basis=self.basis.to(like), damping=None if self.damping is None else self.damping.to(like))

    @property
    def is_identity(self) -> bool:
        """Whether nothing is protected, in any group."""
        return not any(self.protected)

    def __call__(self, rows: Tensor) -> Tensor:
        """The free part of rows (groups, n, C1), or (n, C1) where there is one group."""
        basis = self.basis.to(rows)
        coordinates = rows @ basis
        if self.damping is not None:
            coordinates = coordinates * self.damping.to(rows)
        inside = (coordinates @ basis.mT).view_as(rows)
        return inside if self.holds_free else rows - inside


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
    width, spectra = grams[0].width, [gram.eigen() for gram in grams]
    protected = [
        rule.protected(values, width, count, channels, delta=gram.delta, missing=gram.missing)
        for gram, (values, _) in zip(grams, spectra, strict=True)
    ]
    cuts = [  # the largest eigenvalue that is left free, or that a sketch does not know
        (values[number].item() if number < len(values) else 0.0)
        for number, (values, _) in zip(protected, spectra, strict=True)
    ]
    bound = max(cut + gram.delta for cut, gram in zip(cuts, grams, strict=True))
    damping, holds_free = None, False
    if soft:
        shares = [
            values / (values + max(cut, torch.finfo(torch.float64).tiny)) if number else torch.zeros_like(values)
            for number, cut, (values, _) in zip(protected, cuts, spectra, strict=True)
        ]
        damping = _stacked(shares, grams[0])[:, None]
        parts = [vectors for _, vectors in spectra]
    else:
        complete = all(vectors.shape[1] == width for _, vectors in spectra)
        holds_free = complete and width - min(protected) < max(protected)
        parts = [
            vectors[:, number:] if holds_free else vectors[:, :number]
            for number, (_, vectors) in zip(protected, spectra, strict=True)
        ]
    return Projector(_stacked(parts, grams[0]), holds_free, protected, bound, damping)


def _stacked(parts: list[Tensor], gram: Gram | Sketch) -> Tensor:
    """One tensor of the last dimension of the largest, filled up with zeros: a zero column projects nothing.

    float32 is enough for an update in float32; statistics in float64 keep it.
    """
    dtype = next(iter(gram.tensors().values())).dtype
    largest = max(part.shape[-1] for part in parts)
    return torch.stack([F.pad(part, (0, largest - part.shape[-1])) for part in parts]).to(dtype)
