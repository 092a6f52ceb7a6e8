"""A recipe: one YAML file that names all runs of a table."""

import dataclasses
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from css import config as settings
from css.config import RunConfig
from css.files import write_text
from css.method import method_class
from css.processes import Processes
from css.report import markdown, percent
from css.results import GROUPS, read_results
from css.run import run, task_folder
from tasks import InputError

_KEYS = {"title", "dataset", "protocols", "methods", "seeds", "settings", "options"}


def make_table(recipe: Path, data_root: Path | None, runs: Path, epochs: int | None, processes: Processes) -> str:
    """Runs what is not finished, one cell after the other; returns the Markdown table and writes it beside the runs.

    The first task is trained once per protocol and seed and shared. Raises InputError for a recipe that names
    something unknown.
    """
    plan = _read(recipe)
    folder = runs / recipe.stem
    cells: dict[tuple[str, str, int], RunConfig] = {}
    for protocol in plan["protocols"]:
        for seed in plan["seeds"]:
            for method in plan["methods"]:
                cells[protocol, method, seed] = _cell(plan, recipe, protocol, method, seed, data_root, folder, epochs)
    for (protocol, method, seed), config in cells.items():
        if not method_class(method).joint:
            shared = _shared_first_task(cells, protocol, seed)
            config = dataclasses.replace(config, task0=None if shared == config.folder else shared)
        run(config, processes)
    text = f"{plan['title']}\n\n{_summary(cells)}\n"
    if processes.is_main:
        write_text(folder / "table.md", text)
    return text


def _read(recipe: Path) -> dict[str, Any]:
    plan = settings.read_yaml(recipe)
    if unknown := plan.keys() - _KEYS:
        raise InputError(f"{recipe}: unknown key {sorted(unknown)[0]!r}; known are {', '.join(sorted(_KEYS))}.")
    if missing := {"dataset", "protocols", "methods", "seeds"} - plan.keys():
        raise InputError(f"{recipe} lacks {', '.join(sorted(missing))}.")
    return {"title": recipe.stem, "settings": {}, "options": {}, **plan}


def _cell(plan, recipe, protocol, method, seed, data_root, folder, epochs) -> RunConfig:
    config = settings.preset(plan["dataset"], method)
    changes = {**plan["settings"], "protocol": protocol, "seed": seed, "runs": folder}
    if data_root:
        changes["data_root"] = data_root
    if method in plan["options"]:
        changes["options"] = plan["options"][method]
    config = settings.merge(config, changes, str(recipe))
    if epochs:
        config = settings.merge(config, {"train": {"epochs": epochs, "later_epochs": None}}, "--epochs")
    return config


def _shared_first_task(cells: dict, protocol: str, seed: int) -> Path | None:
    """The run folder among the cells of this protocol and seed whose first task is finished, if any."""
    for (other_protocol, method, other_seed), config in cells.items():
        same = (other_protocol, other_seed) == (protocol, seed) and not method_class(method).joint
        if same and (task_folder(config.folder, 0) / "result.json").exists():
            return config.folder
    return None


def _summary(cells: dict[tuple[str, str, int], RunConfig]) -> str:
    """Mean and standard deviation over seeds, from results.json alone."""
    rows = []
    for protocol, method in dict.fromkeys((protocol, method) for protocol, method, _ in cells):
        results = [read_results(config.folder) for (p, m, _), config in cells.items() if (p, m) == (protocol, method)]
        columns = [[result["tasks"][-1]["groups"][group] for result in results] for group in GROUPS]
        columns.append([result["avg"] for result in results])
        rows.append([protocol, method, str(len(results)), *map(_mean_and_deviation, columns)])
    return markdown(["protocol", "method", "seeds", *GROUPS, "avg"], rows)


def _mean_and_deviation(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "-"
    return percent(mean(known)) + (f" ± {percent(stdev(known))}" if len(known) > 1 else "")
