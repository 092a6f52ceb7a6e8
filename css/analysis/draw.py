"""Pictures of `css analyse`: path, landscape, gates and the cost of fusion (Figs. 4c, 5 and 6 of Split2MetaFusion)."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from css.system.pictures import save_figure

ALIGNED = "fused, classifiers aligned"  # as the table of `css analyse` has it, too
_FUSED = {"fused": ("fused", "--"), "aligned": (ALIGNED, ":")}
_COLOURS = {"old": "tab:blue", "new": "tab:orange"}
_MARKS = {"old": "o", "slow": "s", "fast": "^", "fused": "*"}


def draw_path(path: Path, title: str, found: dict[str, Any]) -> None:
    """Loss of old and new classes from the fast (0) to the slow model (1).

    Dashed: the gated fusion, dotted: with its classifiers aligned.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    _path(axes, found)
    axes.set_title(title)
    save_figure(figure, path)


def _path(axes: Axes, found: dict[str, Any]) -> None:
    for group, colour in _COLOURS.items():
        points = [(point["alpha"], point[f"{group}_loss"]) for point in found["path"]]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=f"{group} classes")
        for model, (label, style) in _FUSED.items():
            loss = found["models"].get(model, {}).get(f"{group}_loss")
            if loss is not None:
                axes.axhline(loss, color=colour, linestyle=style, label=f"{group} classes, {label}")
    axes.set(xlabel="share of the slow model", ylabel="loss on test images")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_landscape(path: Path, title: str, found: dict[str, Any]) -> None:
    """One panel for each loss, with the models marked where they lie, or are nearest, on the plane."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    for axes, (group, losses) in zip(figure.subplots(1, 2), found["losses"].items(), strict=True):
        values = np.array(losses, float)
        if np.isnan(values).all():
            axes.set_title(f"loss of {group} classes: no such pixel")
            continue
        filled = axes.contourf(found["x"], found["y"], values, levels=20, cmap="viridis")
        for model, (x, y, _) in found["points"].items():
            axes.scatter(x, y, marker=_MARKS[model], s=110 if model == "fused" else 50, color="white",
                         edgecolor="black", label=model, zorder=3)  # fmt: skip
        axes.set_title(f"loss of {group} classes")
        axes.legend()
        figure.colorbar(filled)
    save_figure(figure, path)


def draw_gates(path: Path, title: str, shares: list[dict[str, Any]]) -> None:
    """Mean and middle half of the gates of every layer, first layer on the left."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    _gates(axes, shares)
    axes.set_title(title)
    save_figure(figure, path)


def _gates(axes: Axes, shares: list[dict[str, Any]]) -> None:
    places = range(len(shares))
    axes.fill_between(places, [s["quartiles"][0] for s in shares], [s["quartiles"][2] for s in shares], alpha=0.3,
                      label="middle half of the channels")  # fmt: skip
    axes.plot(places, [s["mean"] for s in shares], marker="o", markersize=3, label="mean")
    axes.set(xlabel="layer", ylabel="share of the slow model", ylim=(0, 1))
    axes.set_xticks(places[:: max(1, len(places) // 12)], [s["layer"] for s in shares][:: max(1, len(places) // 12)],
                    rotation=40, ha="right", fontsize=7)  # fmt: skip
    axes.legend()


def draw_story(path: Path, title: str, found: dict[str, Any], dreams: Path, tasks: list[dict[str, Any]]) -> None:
    """One figure of a task: what the fusion saw, what it did, and what came of it.

    Its dreams (a PNG), the gates they lead to, what those do to the losses between fast and slow model, and mIoU after
    every task so far (`tasks` of results.json).
    """
    figure = Figure(figsize=(14, 9), layout="constrained")
    figure.suptitle(title)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    top, bottom = halves
    axes = top.subplots()
    axes.imshow(imread(dreams))
    axes.set_axis_off()
    axes.set_title(
        "dreams of old classes, what they were asked to show (grey: anything), and what the fused model sees"
    )
    left, middle, right = bottom.subplots(1, 3)
    if found["gates"]:
        _gates(left, found["gates"])
        left.set_title("gates learnt on the dreams")
    else:
        left.set_axis_off()
        left.set_title("one coefficient, no gates")
    _path(middle, found)
    middle.set_title("from the fast to the slow model (new: of this task)")
    # other colours: here old and new are the groups of the tables
    for group, label, colour in (("old", "classes of task 0", "tab:green"), ("new", "of later tasks", "tab:purple"),
                                 ("all", "all", "black")):  # fmt: skip
        values = [task["groups"][group] for task in tasks]
        heights = [float("nan") if value is None else 100 * value for value in values]
        right.plot(heights, color=colour, marker="o", markersize=4, label=label)
    right.set(xlabel="task", ylabel="mIoU in %", xticks=range(len(tasks)), ylim=(0, 100), title="after every task")
    right.grid(alpha=0.3)
    right.legend()
    save_figure(figure, path)


def draw_increase(path: Path, increases: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """What fusion adds to the loss of the model that knows, one group of bars for each run."""
    figure = Figure(figsize=(3 + 2.2 * len(increases), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.2
    bars = [("fused", "old"), ("fused", "new"), ("mean", "old"), ("mean", "new")]
    for number, (how, group) in enumerate(bars):
        heights = [found[how][group] or 0.0 for found in increases.values()]
        places = [run + (number - 1.5) * width for run in range(len(increases))]
        label = f"{group} classes, {'gated fusion' if how == 'fused' else 'mean of both models'}"
        axes.bar(places, heights, width, color=_COLOURS[group], alpha=1.0 if how == "fused" else 0.4, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(increases)), list(increases))
    axes.set(ylabel="increase of the loss at fusion")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    save_figure(figure, path)
