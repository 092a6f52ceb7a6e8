"""Pictures of a table: mIoU after each task, and how much of each class was forgotten."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from css.system.pictures import save_figure

_TITLES = {"old": "classes of the first task", "new": "classes of later tasks", "all": "all classes so far"}


def draw_curves(path: Path, title: str, curves: dict[str, dict[str, np.ndarray]]) -> None:
    """One panel per group, one line per method with a band of one standard deviation.

    curves: method -> group ("old", "new", "all") -> fractions (seeds, tasks), NaN where there is no number. A method
    with fewer tasks than the others (joint training) is a dashed horizontal line.
    """
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    figure.suptitle(title)
    tasks = max(scores["all"].shape[1] for scores in curves.values())
    for axes, group in zip(figure.subplots(1, 3, sharey=True), _TITLES, strict=True):
        for number, (label, scores) in enumerate(curves.items()):
            _draw_line(axes, label, scores[group], tasks, colormaps["tab10" if len(curves) <= 10 else "tab20"](number))
        axes.set(
            title=f"{group}: {_TITLES[group]}",
            xlabel="task",
            xticks=range(tasks),
            xlim=(-0.3, tasks - 0.7),
            ylim=(0, 100),
        )
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mIoU in %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    save_figure(figure, path)


def draw_accuracies(path: Path, title: str, curves: dict[str, np.ndarray]) -> None:
    """One line per method: fractions (seeds, tasks). Fewer tasks than the others: a dashed horizontal line."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    tasks = max(scores.shape[1] for scores in curves.values())
    for number, (label, scores) in enumerate(curves.items()):
        _draw_line(axes, label, scores, tasks, colormaps["tab10" if len(curves) <= 10 else "tab20"](number))
    axes.set(title=title, xlabel="after task", ylabel="accuracy in %", xticks=range(tasks))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    save_figure(figure, path)


def draw_forgetting(path: Path, title: str, methods: Sequence[str], classes: Sequence[str], lost: np.ndarray) -> None:
    """A heat map. lost (methods, classes): fractions, positive where IoU was lost, NaN where there is no number."""
    figure = Figure(figsize=(2.5 + 0.62 * len(classes), 1.8 + 0.42 * len(methods)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * lost, cmap="RdBu_r", vmin=-100, vmax=100, aspect="auto")
    axes.set_title(title)
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(methods)), methods)
    for (row, column), value in np.ndenumerate(100 * lost):
        text, colour = ("-", "black") if np.isnan(value) else (f"{value:.0f}", "white" if abs(value) > 60 else "black")
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="points of IoU lost")
    save_figure(figure, path)


def _draw_line(axes: Axes, label: str, scores: np.ndarray, tasks: int, colour: tuple) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a task without a number in any seed stays a gap
        middle, deviation = 100 * np.nanmean(scores, axis=0), 100 * np.nanstd(scores, axis=0, ddof=len(scores) > 1)
    if len(middle) < tasks:
        axes.axhline(middle[-1], color=colour, linestyle="--", label=label)
        return
    axes.plot(range(tasks), middle, color=colour, marker="o", markersize=3, label=label)
    axes.fill_between(range(tasks), middle - deviation, middle + deviation, color=colour, alpha=0.2, linewidth=0)
