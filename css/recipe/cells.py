"""The runs that a recipe asks for."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from css.config.files import merge
from css.config.settings import RunConfig
from css.method.registry import make_method
from css.recipe.plan import Recipe, Row
from css.run.presets import preset
from tasks import InputError


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the table; its name is that of its run folder."""

    label: str
    config: RunConfig

    @property
    def name(self) -> str:
        """That of its run folder."""
        return self.config.folder.name

    @property
    def line(self) -> tuple[str, str]:
        """Protocol and label: what the table shows in one line."""
        return self.config.protocol, self.label

    @property
    def joint(self) -> bool:
        """Whether it learns all classes in one task."""
        return make_method(self.config.method, self.config.options).joint


def make_cells(
    recipe: Recipe, path: Path, runs: Path, data_root: Path | None = None, epochs: int | None = None,
    keep: str | None = None,
) -> list[Cell]:  # fmt: skip
    """Every run of the recipe, in the order in which they are started: by protocol, seed and row.

    `runs` is the folder of all run folders; `epochs` replaces the recipe's in every task, and `keep` its models that
    stay. Raises InputError for an unknown data set, method or setting, and for two cells with one name.
    """
    changes: dict[str, Any] = {"runs": runs / (recipe.runs or path.stem)}
    if data_root:
        changes["data_root"] = data_root
    if keep:
        changes["keep"] = keep
    if epochs:
        changes["train"] = {**_section(recipe.settings, path, "train"), "epochs": epochs, "later_epochs": None}
    cells = [
        _cell(recipe, path, protocol, seed, row, changes)
        for protocol, seed, row in itertools.product(recipe.protocols, recipe.seeds, recipe.methods)
        if protocol in (row.protocols or recipe.protocols)
    ]
    if twice := [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]:
        raise InputError(f"{path}: two cells have the name {twice[0]}; give one of the rows another name.")
    return cells


def _section(settings: dict[str, Any], path: Path, key: str) -> dict[str, Any]:
    section = settings.get(key, {})
    if not isinstance(section, dict):
        raise InputError(f"{path}: {key} must hold settings, one per line.")
    return section


def _cell(recipe: Recipe, path: Path, protocol: str, seed: int, row: Row, changes: dict[str, Any]) -> Cell:
    default = preset(recipe.dataset, row.method)
    own = {"protocol": protocol, "seed": seed, "options": {**recipe.options.get(row.method, {}), **row.options}}
    settings = {**recipe.settings, **own, **changes}
    for section, values in row.settings.items():
        settings[section] = {**_section(settings, path, section), **values}
    config = merge(default, settings, str(path))
    label = row.label.replace(":", ".")
    name = f"{config.dataset_name}-{protocol}-{config.setting}-{label}-s{seed}"
    return Cell(row.label, dataclasses.replace(config, name=name))
