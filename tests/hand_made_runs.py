"""Recipes and results.json files made by hand, so that a table can be tested without training."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from css.config.files import as_dict
from css.recipe.cells import Cell, make_cells
from css.recipe.plan import read_recipe
from css.run.checks import resolve

GROUPS = ("old", "old_no_bg", "new", "all", "all_no_bg", "harmonic")


def write_recipe(path: Path, **keys: object) -> Path:
    plan = {"dataset": "voc", "protocols": ["15-1"], "methods": ["plop"], "seeds": [1], **keys}
    path.write_text(yaml.safe_dump(plan))
    return path


def cells_of(recipe: Path, runs: Path) -> dict[str, Cell]:
    return {cell.name: cell for cell in make_cells(read_recipe(recipe), recipe, runs)}


def write_run(cell: Cell, groups: Sequence[Sequence[int]], ious: Sequence[Sequence[float | None]], **changes) -> Path:
    """results.json of a finished run. The stored means are nonsense: tables must not use them."""
    config = as_dict(resolve(cell.config))
    config["train"]["precision"] = "fp32"
    tasks = [
        {
            "index": index,
            "new_classes": list(new),
            "train_images": 10,
            "test_images": 5,
            "iou": list(iou),
            "groups": dict.fromkeys(GROUPS, 0.987654),
            "seconds": {"learn": 100.0 * (index + 1), "thresholds": 7.0, "train": 1.0, "since_start_or_restart": 900.0},
        }
        for index, (new, iou) in enumerate(zip([sum(groups, [])] if cell.joint else groups, ious, strict=True))
    ]
    order = sum(map(list, groups), [])
    values = {
        "complete": True,
        "avg": 0.987654,
        "tasks": tasks,
        "config": config,
        "seed": config["seed"],
        "class_order": order,
        "protocol_groups": [list(group) for group in groups],
        "class_names": ["background", *(f"class {c}" for c in range(1, max(order) + 1))],
        "data_fingerprint": "abc",
        **changes,
    }
    return rewrite(cell, values)


def rewrite(cell: Cell, values: object) -> Path:
    path = cell.config.folder / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def rows(text: str) -> list[list[str]]:
    """The cells of every line of the Markdown tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
