"""Curves of the losses, from log.jsonl."""

import json
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from css.page.charts import line_chart

_WHERE = {"task", "stage", "epoch", "iteration", "lr"}  # the other keys of an entry are losses
_POINTS = 80  # of a curve at most; each is the mean of the steps around it
_WIDE = 30.0  # the axis is logarithmic if the largest value is so many times the smallest

Curves = dict[tuple[int, str], dict[str, list[tuple[float, float]]]]


def read_losses(path: Path) -> Curves:
    """Points (epoch, loss) by (task, stage) and name of the loss; nothing if there is no log.

    Lines that are not whole, as a killed run leaves them, are passed over.
    """
    steps: dict[tuple[int, str], dict[str, list[tuple[float, float]]]] = {}
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for entry in map(_entry, lines):
        stage = steps.setdefault((entry["task"], entry["stage"]), {}) if entry else {}
        for name in (key for key in entry if key not in _WHERE):
            stage.setdefault(name, []).append((entry["epoch"], float(entry[name])))
    return {where: {name: _binned(points) for name, points in terms.items()} for where, terms in steps.items()}


def _entry(line: str) -> dict[str, Any]:
    """What a step has written; nothing where the line is not whole."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and entry.keys() >= _WHERE else {}


def draw_losses(curves: Curves) -> list[tuple[str, Markup]]:
    """A title and a chart for every stage of every task."""
    charts = []
    for (task, stage), terms in curves.items():
        values = [value for points in terms.values() for _, value in points if math.isfinite(value)]
        log = bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)
        title = f"task {task}, {stage}"
        charts.append((title, line_chart(f"Losses of {title}", terms, "epoch", "loss", log=log)))
    return charts


def _binned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Steps in order of (epoch, loss), as means of neighbours; epochs become fractions."""
    epochs = 1 + max(epoch for epoch, _ in points)
    size = -(-len(points) // _POINTS)
    means = []
    for start in range(0, len(points), size):
        part = [value for _, value in points[start : start + size]]
        means.append((epochs * (start + len(part) / 2) / len(points), sum(part) / len(part)))
    return means
