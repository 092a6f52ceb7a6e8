"""A recipe: one YAML file that names all runs of a table."""

import dataclasses
import itertools
from dataclasses import field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from css import config as settings
from css.config import RunConfig
from css.files import write_text
from css.method import method_class
from css.processes import Processes
from css.report import markdown, percent
from css.results import GROUPS, read_results
from css.run import checked_stream, run, task_folder
from tasks import InputError


@dataclass(config={"extra": "forbid", "coerce_numbers_to_str": True})
class Recipe:
    """The keys of a recipe file."""

    dataset: str
    protocols: list[str]
    methods: list[str]
    seeds: list[int]
    title: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # of every run, as in config.yaml
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of single methods


def make_table(recipe: Path, data_root: Path | None, runs: Path, epochs: int | None, processes: Processes) -> str:
    """Runs what is not finished, one cell after the other; returns the Markdown table and writes it beside the runs.

    The first task is trained once per protocol and seed and shared. Raises InputError for a recipe that names
    something unknown, before anything is run.
    """
    plan = _read(recipe)
    changes: dict[str, Any] = {"runs": runs / recipe.stem, **({"data_root": data_root} if data_root else {})}
    if epochs:
        changes["train"] = {**plan.settings.get("train", {}), "epochs": epochs, "later_epochs": None}
    cells = {
        cell: _configuration(plan, recipe, *cell, changes)
        for cell in itertools.product(plan.protocols, plan.seeds, plan.methods)
    }
    for config in cells.values():
        checked_stream(config, processes.world)
    for (protocol, seed, method), config in cells.items():
        if not method_class(method).joint:
            shared = _shared_first_task(cells, protocol, seed)
            config = dataclasses.replace(config, task0=None if shared == config.folder else shared)
        run(config, processes)
    text = f"{plan.title or recipe.stem}\n\n{_summary(cells)}\n"
    if processes.is_main:
        write_text(runs / recipe.stem / "table.md", text)
    return text


def _read(recipe: Path) -> Recipe:
    try:
        plan = TypeAdapter(Recipe).validate_python(settings.read_yaml(recipe))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{recipe}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    if unused := plan.options.keys() - set(plan.methods):
        raise InputError(f"{recipe}: options are given for {sorted(unused)[0]!r}, which is not among its methods.")
    return plan


def _configuration(
    plan: Recipe, recipe: Path, protocol: str, seed: int, method: str, changes: dict[str, Any]
) -> RunConfig:
    config = settings.preset(plan.dataset, method)
    cell = {"protocol": protocol, "seed": seed, "options": plan.options.get(method, {})}
    return settings.merge(config, {**plan.settings, **cell, **changes}, str(recipe))


def _shared_first_task(cells: dict, protocol: str, seed: int) -> Path | None:
    """The run folder among the cells of this protocol and seed whose first task is finished, if any."""
    for (other_protocol, other_seed, method), config in cells.items():
        same = (other_protocol, other_seed) == (protocol, seed) and not method_class(method).joint
        if same and (task_folder(config.folder, 0) / "result.json").exists():
            return config.folder
    return None


def _summary(cells: dict[tuple[str, int, str], RunConfig]) -> str:
    """Mean and standard deviation over seeds, from results.json alone."""
    rows = []
    for protocol, method in dict.fromkeys((protocol, method) for protocol, _, method in cells):
        results = [read_results(config.folder) for (p, _, m), config in cells.items() if (p, m) == (protocol, method)]
        columns = [[result["tasks"][-1]["groups"][group] for result in results] for group in GROUPS]
        columns.append([result["avg"] for result in results])
        rows.append([protocol, method, str(len(results)), *map(_mean_and_deviation, columns)])
    return markdown(["protocol", "method", "seeds", *GROUPS, "avg"], rows)


def _mean_and_deviation(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "-"
    return percent(mean(known)) + (f" ± {percent(stdev(known))}" if len(known) > 1 else "")
