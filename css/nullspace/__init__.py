"""Null-space projection of updates: statistics of the old tasks, projectors, and hooks on an optimiser (TPNSP, NSP)."""

from css.nullspace.projectors import Projector, Rule, projector
from css.nullspace.statistics import GradientStatistics
from css.nullspace.updates import for_parameters, project_total, project_updates

__all__ = [
    "GradientStatistics", "Projector", "Rule", "for_parameters", "project_total", "project_updates", "projector",
]  # fmt: skip
