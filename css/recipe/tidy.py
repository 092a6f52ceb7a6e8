"""Removes the models of finished cells that nothing needs any more (--keep last)."""

from collections.abc import Sequence
from pathlib import Path

from css.config.compare import differences
from css.config.files import as_dict
from css.config.settings import RunConfig
from css.method.registry import make_method
from css.recipe.agreement import unreadable
from css.recipe.cells import Cell
from css.run.folder import MODEL, drop_models, is_complete, task_folder
from css.run.saved import finished_task


def tidy(cells: Sequence[Cell]) -> None:
    """Leaves the last model of every finished cell with --keep last, and what other cells start from.

    That is one first task per protocol and seed, which rows that are added later start from, too: the first one in the
    order of the recipe, once every cell has its own. Raises InputError if a folder cannot be written.
    """
    damaged = unreadable(cells)
    for cell in cells:
        folder = cell.config.folder
        if cell.config.keep == "last" and cell.name not in damaged and is_complete(folder):
            drop_models(folder, finished_task(folder, None), {0} if _lends(cell, cells) else set())


def related(cell: Cell, other: Cell) -> bool:
    """Do they have the same first task?"""
    if cell.joint or other.joint or _how_first(cell) != _how_first(other):
        return False
    return not differences(as_dict(cell.config), as_dict(other.config), first_task_only=True)


def _how_first(cell: Cell) -> tuple[str, str]:
    return cell.config.protocol, make_method(cell.config.method, cell.config.options).first_task()


def first_task_of(cell: Cell, cells: Sequence[Cell]) -> Path | None:
    """The run folder among the cells of this protocol and seed whose first task can be taken over; None if none can."""
    lenders = (other.config.folder for other in cells if lends_first_task(other.config) and related(cell, other))
    return next(lenders, None)


def knows_first_task(config: RunConfig) -> bool:
    """Whether it is finished, whatever has become of its model."""
    return (task_folder(config.folder, 0) / "result.json").exists()


def lends_first_task(config: RunConfig) -> bool:
    """Whether another cell can start from it."""
    return knows_first_task(config) and (task_folder(config.folder, 0) / MODEL).exists()


def _lends(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether a cell's first task is there and has to stay."""
    if not lends_first_task(cell.config):
        return False
    waiting = any(related(cell, other) and not knows_first_task(other.config) for other in cells)
    return waiting or first_task_of(cell, cells) == cell.config.folder
