"""How many models a table leaves, and their size, with --keep all and --keep last.

    python benchmarks/model_files.py recipes/table2.yaml 20

20: classes of the data set, without the background. Networks alone: what a method keeps beside them (importances,
statistics) and what Split2MetaFusion leaves for css analyse (two more networks per later task) comes on top.
"""

import argparse
from pathlib import Path

from css.model.segmenter import Segmenter
from css.recipe.cells import make_cells
from css.recipe.plan import read_recipe
from tasks import split_classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("classes", type=int, help="of the data set, without the background")
    arguments = parser.parse_args()
    cells = make_cells(read_recipe(arguments.recipe), arguments.recipe, Path("runs"))
    tasks = [1 if cell.joint else len(split_classes(cell.config.protocol, arguments.classes)) for cell in cells]
    shared = {(cell.config.protocol, cell.config.seed) for cell in cells if not cell.joint}
    network = Segmenter(cells[0].config.model.encoder, "none")
    network.grow(list(range(arguments.classes + 1)))
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    for keep, models in {"all": sum(tasks), "last": len(cells) + len(shared)}.items():
        print(f"--keep {keep}: {models} models of {size / 1e6:.0f} MB, {models * size / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
