"""css data init | check | convert: your own images and masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from css.cli.arguments import WANTS_HELP
from tasks.errors import InputError, nearest
from tasks.folder import FILE
from tasks.folder import check as check_folder
from tasks.folder import init as init_folder
from tasks.folder.check import report
from tasks.folder.sheet import write_sheet
from tasks.formats import convert as convert_to
from tasks.formats import read_any

USAGE = """usage: css data COMMAND ...

  init FOLDER                      look at a folder of images and masks and write its data.yaml
  check FOLDER [--sheet PNG]       what is in it, what does not fit, a contact sheet; `css data FOLDER` is short for it
  convert SOURCE [VAL] --out OUT   masks from COCO or labelme json, Label Studio brushes, masks in colours"""


def data_command(arguments: list[str]) -> int:
    """Calls one of the commands below; returns the exit code."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in WANTS_HELP:
        print(USAGE)
        return 0
    if name not in COMMANDS and Path(name).is_dir():
        name, rest = "check", arguments
    if name not in COMMANDS:
        raise InputError(f"css data: {name!r} is neither a command nor a folder; {nearest(name, COMMANDS)}.")
    tyro.cli(COMMANDS[name], args=rest, prog=f"css data {name}")
    return 0


def init(folder: tyro.conf.Positional[Path], /) -> None:
    """Looks at a folder of images and masks and writes the data.yaml that it needs, with what it could guess.

    Args:
        folder: Holds the images and masks, see docs/own-data.md for the layouts that are found.
    """
    guess = init_folder(folder)
    print("\n".join([*guess.remarks, "", (folder / FILE).read_text(encoding="utf-8")]))
    print(f"{folder / FILE} is written: read it, correct it, then look at the data with `css data check {folder}`.")


def check(folder: tyro.conf.Positional[Path], /, sheet: Path | None = None) -> None:
    """Reads every image and mask: counts by class, what does not fit, a contact sheet with the names of the classes.

    Args:
        folder: Holds data.yaml.
        sheet: Where to write the contact sheet; default: classes.png in the folder.
    """
    result = check_folder(folder)
    path = sheet or folder / "classes.png"
    write_sheet(result, path)
    print(f"{report(result)}\nDoes every class show what its name says? See {path}.")
    if result.problems:
        raise InputError(f"{folder} has {len(result.problems)} problem(s), named above, which stop a run: mend them.")


def convert(source: tyro.conf.Positional[tuple[Path, ...]], /, out: Path, images: tuple[Path, ...] = (),
            crowd: Literal["void", "class"] = "void") -> None:  # fmt: skip
    """Writes PNG masks and data.yaml from annotations in another format. Images stay where they are.

    Args:
        source: A COCO json file, or a folder: with such a file, with labelme json, with brush PNGs of Label Studio and
            the JSON of their tasks, or with masks in colours and labelmap.txt (CVAT) or class_dict.csv. A second one is
            for validation; else every fifth image is drawn for it.
        out: Folder to write into.
        images: Folder of the images, if they are not beside the annotations; one for each source, or one for all.
        crowd: What COCO's crowds are: ignored pixels, or pixels of their class.
    """
    splits = read_any(list(source), list(images), crowd)
    described = convert_to(splits, out)
    remarks = dict.fromkeys(remark for split in splits.values() for remark in split.remarks)
    print("\n".join([*remarks, f"{out}: {len(described.names)} classes, {', '.join(described.names.values())}."]))
    print(f"Look at them with `css data check {out}`.")


COMMANDS: dict[str, Callable[..., None]] = {"init": init, "check": check, "convert": convert}
