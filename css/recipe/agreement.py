"""Whether the run folders of a recipe's cells were made with its settings and one set of data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from css.config.compare import differences
from css.config.files import CONFIG_FILE, FINGERPRINT, as_dict, read_config
from css.recipe.cells import Cell
from css.report.choice import read_record
from css.report.record import Record
from css.run.checks import resolve
from tasks import InputError


def finished_records(cells: Iterable[Cell]) -> dict[str, Record]:
    """By name of the cell; cells that are not finished are left out."""
    found = {cell.name: read_record(cell.config.folder) for cell in cells if _has_results(cell)}
    return {name: record for name, record in found.items() if record.complete}


def _has_results(cell: Cell) -> bool:
    return (cell.config.folder / "results.json").exists()


def unreadable(cells: Iterable[Cell]) -> dict[str, str]:
    """One sentence for every cell whose run folder is damaged or not ours, by name of the cell."""
    return {cell.name: complaint for cell in cells if (complaint := _complaint(cell))}


def _complaint(cell: Cell) -> str:
    try:
        _made_with(cell)
    except InputError as error:
        return str(error)
    return ""


def require_agreement(cells: Iterable[Cell]) -> None:
    """Raises InputError if a run folder, finished or not, was made with other settings than the recipe's.

    Also if two were made with different data or in different precisions (which a recipe may leave to the machine).
    """
    first: tuple[Path, dict[str, Any]] | None = None
    for cell in cells:
        folder = cell.config.folder
        theirs = _made_with(cell)
        if theirs is None:
            continue
        if changed := differences(_expected(cell, theirs), theirs):
            raise InputError(
                f"{folder} does not belong into this table, its settings are not those of the recipe: "
                f"{'; '.join(changed)}. Give the same settings, or another folder (--runs)."
            )
        common = {"train.precision": _precision(theirs), "the data": theirs.get(FINGERPRINT)}
        first = first or (folder, common)
        for key, value in common.items():
            if value != first[1][key]:
                raise InputError(
                    f"{first[0]} and {folder} cannot stand in one table, they disagree in {key} ({first[1][key]} and "
                    f"{value}); delete one of them to compute it again."
                )


def _made_with(cell: Cell) -> dict[str, Any] | None:
    """Settings and fingerprint of the data of a run folder; None if it has not been started."""
    folder = cell.config.folder
    if _has_results(cell):
        record = read_record(folder)
        return record.config | {FINGERPRINT: record.data_fingerprint}
    return read_config(folder) if (folder / CONFIG_FILE).exists() else None


def _precision(made_with: dict[str, Any]) -> Any:
    train = made_with.get("train")
    return train.get("precision") if isinstance(train, dict) else None


def _expected(cell: Cell, theirs: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings, with what the recipe leaves open as it was in the run."""
    mine = as_dict(resolve(cell.config)) | {FINGERPRINT: theirs.get(FINGERPRINT)}
    if cell.config.train.precision == "auto":
        mine["train"]["precision"] = _precision(theirs)
    return mine
