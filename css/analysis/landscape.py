"""Losses on the plane through three models."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from css.analysis.measure import Batches, Models, measure
from css.model.state import State

POINTS = 9  # points of the landscape in each direction
MARGIN = 0.3  # of the landscape's sides around its models


class Plane(NamedTuple):
    """Through three models.

    Coordinates are distances in the space of the parameters of encoder and decoder, in which `along` and `across` are
    orthonormal. Old classifiers, of which the bias of the background jumps when a new one is added, and BatchNorm's
    statistics, whose size has nothing to do with that of weights, move in proportion.
    """

    origin: State
    along: State
    across: State

    def at(self, x: float, y: float, rest: State) -> dict[str, Tensor]:
        """The state at a point; entries that the plane has not from `rest`. Variances do not fall below 0."""
        moved = {}
        for name, start in self.origin.items():
            value = start + (x * self.along[name] + y * self.across[name]).to(start)
            moved[name] = value.clamp(min=1e-6) if name.endswith("running_var") else value
        return {**rest, **moved}

    def coordinates(self, state: State) -> tuple[float, float, float]:
        """x, y, and the distance from the plane."""
        offset = {name: state[name].double() - start.double() for name, start in self.origin.items()
                  if not _moves_along(name)}  # fmt: skip
        x, y = _dot(offset, self.along), _dot(offset, self.across)
        return x, y, max(0.0, _dot(offset, offset) - x * x - y * y) ** 0.5


def plane_through(origin: State, second: State, third: State, without: str) -> Plane:
    """By Gram-Schmidt, over the entries that do not begin with `without`.

    Raises ValueError if the three models lie on one line.
    """
    names = [name for name, value in origin.items() if value.is_floating_point() and not name.startswith(without)]
    first, other = ({name: model[name].double() - origin[name].double() for name in names} for model in (second, third))
    scale = _dot(other, other) ** 0.5
    along = _unit(first, scale)
    share = _dot(other, along)
    across = _unit({name: value - share * along[name] for name, value in other.items()}, scale)
    return Plane({name: origin[name] for name in names}, along, across)


def _moves_along(name: str) -> bool:
    return name.startswith("classifiers.") or name.endswith(("running_mean", "running_var"))


def _dot(a: State, b: State) -> float:
    return sum((a[name] * b[name]).sum().item() for name in a if not _moves_along(name))


def _unit(direction: State, scale: float) -> State:
    length = _dot(direction, direction) ** 0.5
    if length <= 1e-6 * scale:
        raise ValueError("The models lie on one line.")
    return {name: value / length for name, value in direction.items()}


def landscape(models: Models, batches: Batches) -> dict[str, Any]:
    """Old and new loss on the plane through old, slow and fast model (Fig. 5).

    Through old, fast and fused one where the slow model is the old one; None if that is a line, too. BatchNorm's
    statistics move with all else.
    """
    names = ["old", "slow", "fast", "fused"]
    try:
        plane = plane_through(models.old, models.slow, models.fast, models.new_classifier)
    except ValueError:
        try:
            plane = plane_through(models.old, models.fast, models.fused, models.new_classifier)
        except ValueError:
            return {"points": None}
    points = {name: plane.coordinates(getattr(models, name)) for name in names}
    axes = []
    for axis in (0, 1):
        values = [point[axis] for point in points.values()]
        edge = MARGIN * (max(values) - min(values))
        axes.append(torch.linspace(min(values) - edge, max(values) + edge, POINTS).tolist())
    losses: dict[str, list[list[float | None]]] = {"old": [], "new": []}
    for y in tqdm(axes[1], desc="landscape", unit="row", leave=False, disable=None):
        row = [measure(models, plane.at(x, y, models.fast), batches) for x in axes[0]]
        for group in losses:
            losses[group].append([point[f"{group}_loss"] for point in row])
    return {"points": points, "x": axes[0], "y": axes[1], "losses": losses}
