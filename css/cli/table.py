"""css table."""

import os
import sys
from pathlib import Path

import tyro

from css.recipe.agreement import finished_records, require_agreement, unreadable
from css.recipe.cells import Cell, make_cells
from css.recipe.jobs import default_jobs, run_cell, run_cells
from css.recipe.plan import read_recipe
from css.system.processes import Processes
from css.table.write import write_table
from tasks import InputError


def table(recipe: tyro.conf.Positional[Path], /, data_root: Path | None = None, runs: Path = Path("runs"),
          epochs: int | None = None, jobs: int | None = None, cell: str | None = None) -> int:  # fmt: skip
    """Runs every cell of a recipe that is not finished, then writes one table: Markdown, CSV, LaTeX, pictures.

    A cell that fails, or whose run folder is damaged, is named, and the table shows the others; the exit code is 1.

    Args:
        recipe: YAML file, see recipes/.
        data_root: Folder of the data set; default: $DATA_ROOT, else ./data.
        runs: Folder of all run folders.
        epochs: Epochs of every task instead of those of the recipe.
        jobs: Cells that run at the same time, each in one process; default: the number of GPUs, else 1. With 1, GPUS=n
            sets the number of processes of a cell.
        cell: Run this cell alone (the name of its run folder) and write no table.
    """
    for name, value in (("epochs", epochs), ("jobs", jobs)):
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1.")
    plan = read_recipe(recipe)
    cells = make_cells(plan, recipe, runs, data_root, epochs)
    if cell is not None:
        run_cell(_named(cells, cell, recipe), cells, Processes.join())
        return 0
    if "RANK" in os.environ:
        raise InputError("css table starts the processes of its cells itself: call it without torchrun.")
    damaged = unreadable(cells)
    sound = [cell for cell in cells if cell.name not in damaged]
    require_agreement(sound)
    passed_on = {"--data-root": data_root, "--runs": runs, "--epochs": epochs}
    options = [text for flag, value in passed_on.items() if value for text in (flag, str(value))]
    failures = run_cells(
        sound, set(finished_records(sound)), jobs or default_jobs(),
        lambda cell: ["table", str(recipe), *options, "--cell", cell.name],
    )  # fmt: skip
    require_agreement(sound)
    print(write_table(plan, cells, finished_records(sound), runs / recipe.stem))
    failures |= damaged
    for name, sentence in failures.items():
        print(f"{name} failed: {sentence}", file=sys.stderr)
    if failures:
        print(f"css: {len(failures)} of {len(cells)} cells failed; call again to resume them.", file=sys.stderr)
    return 1 if failures else 0


def _named(cells: list[Cell], name: str, recipe: Path) -> Cell:
    for cell in cells:
        if cell.name == name:
            return cell
    raise InputError(f"--cell {name} is not in {recipe}; its cells are {', '.join(cell.name for cell in cells)}.")
