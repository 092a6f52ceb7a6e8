"""css table."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from css.recipe.agreement import finished_records, require_agreement, unreadable
from css.recipe.cells import Cell, make_cells
from css.recipe.jobs import Failures, Start, in_a_process, run_cell, run_cells
from css.recipe.plan import read_recipe
from css.recipe.queue import Kind, Queue
from css.recipe.tidy import tidy
from css.system.launch import is_launched, wanted_processes
from css.system.processes import Processes
from css.table.write import write_table
from tasks import InputError


def table(recipe: tyro.conf.Positional[Path], /, data_root: Path | None = None, runs: Path = Path("runs"),
          epochs: int | None = None, jobs: int | None = None, keep: Literal["all", "last"] | None = None,
          executor: Kind | None = None, slurm: tuple[str, ...] = (),
          show: Annotated[bool, tyro.conf.arg(name="print")] = False, cell: str | None = None) -> int:  # fmt: skip
    """Runs every cell of a recipe that is not finished, then writes one table: Markdown, CSV, LaTeX, pictures.

    A cell that fails, or whose run folder is damaged, is named, and the table shows the others; the exit code is 1.

    Args:
        recipe: YAML file, see recipes/.
        data_root: Folder of the data set; default: $DATA_ROOT, else ./data.
        runs: Folder of all run folders.
        epochs: Epochs of every task instead of those of the recipe.
        jobs: Cells that run at the same time, each in one process, with GPU k for job k; default: 1, and then GPUS=n
            sets the number of processes of a cell. With --executor slurm: all that wait.
        keep: Models that stay in run folders: of every task, or last: one of each finished cell, and one first task
            per protocol and seed; default: that of the recipe, else all.
        executor: Cells become jobs of submitit, which this command waits for: local, or slurm for sbatch.
        slurm: Options of sbatch, as partition=gpu time=12:00:00 gpus-per-node=1.
        show: Print the script of the first job that --executor slurm would submit, and run nothing.
        cell: Run this cell alone (the name of its run folder) and write no table.
    """
    _require_at_least_one(epochs=epochs, jobs=jobs)
    if executor != "slurm" and (slurm or show):
        raise InputError(f"--{'slurm' if slurm else 'print'} is for --executor slurm; add that.")
    plan = read_recipe(recipe)
    cells = make_cells(plan, recipe, runs, data_root, epochs, keep)
    if cell is not None:
        run_cell(_named(cells, cell, recipe), cells, Processes.join())
        return 0
    if is_launched():
        raise InputError("css table starts the processes of its cells itself: call it without torchrun or srun.")
    damaged = unreadable(cells)
    sound = [cell for cell in cells if cell.name not in damaged]
    require_agreement(sound)
    passed_on = {"--data-root": data_root, "--runs": runs, "--epochs": epochs, "--keep": keep}
    options = [text for flag, value in passed_on.items() if value for text in (flag, str(value))]
    command = partial(_command, ["table", str(recipe), *options])
    finished = set(finished_records(sound))
    waiting = [cell for cell in sound if cell.name not in finished]
    count = jobs or (len(waiting) if executor == "slurm" else 1) or 1
    queue = Queue(executor, runs / recipe.stem / "jobs", slurm, command, count) if executor else None
    if queue and show:
        print(queue.script(waiting[0]) if waiting else f"Every cell of {recipe} is finished.")
        return 0
    failures = run_cells(sound, finished, count, *_start(queue, count, command))
    tidy(sound)
    require_agreement(sound)
    print(write_table(plan, cells, finished_records(sound), runs / recipe.stem))
    return _say({**failures, **damaged}, len(cells))


def _require_at_least_one(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1.")


def _command(table: list[str], cell: Cell) -> list[str]:
    return [*table, "--cell", cell.name]


def _start(queue: Queue | None, jobs: int, command: Callable[[Cell], list[str]]) -> tuple[Start, bool]:
    """What starts cells, and whether they run in this process instead. Raises InputError if a queue is not there."""
    if queue:
        queue.require()
        return queue.start, False
    return in_a_process(jobs, command), jobs == 1 and wanted_processes() == 1


def _say(failures: Failures, cells: int) -> int:
    """Names what failed; the exit code."""
    for name, sentence in failures.items():
        print(f"{name} failed: {sentence}", file=sys.stderr)
    if failures:
        print(f"css: {len(failures)} of {cells} cells failed; call again to resume them.", file=sys.stderr)
    return 1 if failures else 0


def _named(cells: list[Cell], name: str, recipe: Path) -> Cell:
    for cell in cells:
        if cell.name == name:
            return cell
    raise InputError(f"--cell {name} is not in {recipe}; its cells are {', '.join(cell.name for cell in cells)}.")
