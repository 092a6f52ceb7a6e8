"""css demo."""

from pathlib import Path

from css.config.files import merge
from css.run.flow import run
from css.run.presets import preset
from css.system.files import writing
from css.system.processes import Processes

# Of the built-in shapes; sized for a minute and a half on two cores.
_SETTINGS = {
    "protocol": "3-1", "classes": ["1", "2", "3", "4", "5"],
    "train": {"epochs": 6, "later_epochs": 3, "later_lr": 0.05},
}  # fmt: skip
_LAST_TASK = 2


def demo(out: Path = Path("demo")) -> None:
    """Learns three classes of the built-in shapes, then two more from their own images, in a minute and a half.

    Args:
        out: Run folder to write.
    """
    config = merge(preset("shapes", "frozen+align"), {**_SETTINGS, "runs": out.parent, "name": out.name}, "css demo")
    with writing(out):
        run(config, Processes.join())
    picture, table = out / f"task_{_LAST_TASK}" / "pictures.png", out / "table.md"
    print(f"The same images after every task: {picture}; the table: {table}")
    print(f"Your own classes: css extend {out} --data FOLDER --classes NAME (docs/extend.md)")
