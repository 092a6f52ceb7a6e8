"""CPU seconds until a cell of a table learns, besides imports, and of one look at which cells may start.

    PYTHONPATH=. python benchmarks/cell_start.py [--encoder resnet50] [--dataset shapes] [--data-root FOLDER]

The first pass of the same start imports what is needed, and checks the data; the second one is counted, and ends where
the trainer would begin. --profile says where the time goes. The look is at recipes/table2.yaml: nothing is finished,
one job runs, and the other one waits; it is taken twice a second.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from css.recipe.cells import Cell, make_cells
from css.recipe.jobs import Pool, run_cell
from css.recipe.plan import read_recipe
from css.system.processes import Processes
from css.training.trainer import Trainer

TABLE2 = Path(__file__).parents[1] / "recipes" / "table2.yaml"


class Learning(Exception):
    """The trainer begins."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start(arguments, Path(folder, "first"))
        with cProfile.Profile(time.process_time) if arguments.profile else mock.MagicMock() as profile:
            spent = start(arguments, Path(folder, "second"))
        print(f"{arguments.dataset}, {arguments.encoder}: {spent:.2f} s of CPU until a cell learns, imported before")
        if arguments.profile:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(30)
        print(f"a look at what may start: {look(Path(folder)):.3f} s")


def start(arguments: argparse.Namespace, runs: Path) -> float:
    """As `css table RECIPE --cell NAME` does."""
    runs.mkdir()
    recipe = runs / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(plan(arguments)))
    began = time.process_time()
    cells = make_cells(read_recipe(recipe), recipe, runs, arguments.data_root)
    with mock.patch.object(Trainer, "fit", side_effect=Learning):
        try:
            run_cell(cells[0], cells, Processes.join())
        except Learning:
            return time.process_time() - began
    raise AssertionError("the cell has not learnt")


def plan(arguments: argparse.Namespace) -> dict[str, Any]:
    model = {"encoder": arguments.encoder, "encoder_weights": "none"}
    train = {"epochs": 1, "batch": 16, "crop": 96, "bn_group": None, "precision": "bf16"}
    return {
        "dataset": arguments.dataset, "protocols": ["15-1"], "methods": ["finetune", "plop"], "seeds": [1, 2, 3],
        "settings": {"model": model, "train": train},
    }  # fmt: skip


def look(runs: Path) -> float:
    cells: list[Cell] = make_cells(read_recipe(TABLE2), TABLE2, runs)
    pool = Pool(cells[1:], cells, 2, mock.MagicMock())
    pool.running[0] = cells[0], mock.MagicMock()
    related = [cell for cell in cells[1:] if cell.config.protocol == cells[0].config.protocol and not cell.joint]
    began = time.process_time()
    for cell in related:
        pool._ready(cell)
    return time.process_time() - began


if __name__ == "__main__":
    main()
