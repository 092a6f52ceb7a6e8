"""Writes annotations of any format as a folder of PNG masks with data.yaml."""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tasks.errors import InputError
from tasks.folder.description import FILE, MOST_CLASSES, Description, as_yaml, describe
from tasks.folder.guess import SEED
from tasks.folder.pairs import stratified
from tasks.folder.writing import write_text, write_whole
from tasks.formats.annotated import Annotated
from tasks.formats.coco import is_coco, read_coco
from tasks.formats.colours import TABLES, read_colours
from tasks.formats.label_studio import is_label_studio, read_label_studio
from tasks.formats.labelme import is_labelme, read_labelme
from tasks.source import BACKGROUND, VOID

SPLITS = ("train", "val")


def read_any(sources: list[Path], images: list[Path], crowd: str = "void") -> dict[str, Annotated]:
    """Annotations by split, in whatever format they are: one source, or those of training and of validation.

    A source is a COCO json file or a folder: with one, of labelme, of Label Studio, or of masks in colours with their
    table. `images` are the folders of the images, one for all or one for each; by default where the annotations are.
    """
    if len(sources) not in (1, 2) or len(images) not in (0, 1, len(sources)):
        raise InputError(
            "name one source, or two (training, validation), and with --images as many folders, one or none."
        )
    folders: list[Path | None] = [*images] if len(images) == len(sources) else [*images, None][:1] * len(sources)
    found = [_read(source, folder, crowd) for source, folder in zip(sources, folders, strict=True)]
    if len(found) == 1:
        return found[0]
    if any(len(splits) > 1 for splits in found):
        raise InputError(f"{sources[0]} or {sources[1]} has splits of its own: name it alone.")
    return {key: splits["train"] for key, splits in zip(SPLITS, found, strict=True)}


def convert(splits: dict[str, Annotated], out: Path) -> Description:
    """Writes masks/NAME.png (NAME as below the folder of the images), a list for each split and last data.yaml.

    Images stay where they are. Without a "val" split one is drawn from a seed. Raises InputError if `out` holds a data
    set already or if the annotations have no or too many classes.
    """
    if (out / FILE).exists():
        raise InputError(f"{out / FILE} is there already: name another folder with --out.")
    names = list(dict.fromkeys(name for split in splits.values() for name in split.names))
    if not 0 < len(names) <= MOST_CLASSES:
        raise InputError(f"the annotations have {len(names)} classes; 1 to {MOST_CLASSES} can be learnt.")
    folders = {key: f"masks/{key}" if len(splits) > 1 else "masks" for key in splits}
    given = {
        key: {"images": os.path.relpath(split.folder, out), "masks": folders[key], "list": f"{key}.txt"}
        for key, split in splits.items()
    }
    given.setdefault("val", {**given["train"], "list": "val.txt"})
    colours = {name: colour for split in splits.values() for name, colour in split.colours.items()}
    described = describe({"names": names, "colours": colours, **given}, out / FILE)
    held = {key: _write_masks(split, out / folders[key], described) for key, split in splits.items()}
    lists = {key: sorted(classes) for key, classes in held.items()}
    if "val" not in splits:
        lists["train"], lists["val"] = stratified(held["train"], SEED)
    for key, listed in lists.items():
        write_text(out / f"{key}.txt", "".join(f"{name}\n" for name in listed))
    write_text(out / FILE, as_yaml(described))
    return described


def _read(source: Path, images: Path | None, crowd: str) -> dict[str, Annotated]:
    if source.is_file():
        return {"train": read_coco(source, images or source.parent, crowd)}
    if not source.is_dir():
        raise InputError(f"{source} does not exist: name a COCO json file or a folder.")
    if is_label_studio(source):
        return {"train": read_label_studio(source, images or source)}
    if any((source / name).is_file() for name in TABLES):
        return read_colours(source, images)
    coco = [path for path in sorted(source.glob("*.json")) if is_coco(path)]
    if len(coco) == 1:
        return {"train": read_coco(coco[0], images or source, crowd)}
    if any(is_labelme(path) for path in source.rglob("*.json")):
        return {"train": read_labelme(source, images)}
    raise InputError(
        f"{source} holds no annotations of a known format (COCO, labelme, Label Studio brushes, masks in colours with "
        "labelmap.txt): see docs/own-data.md."
    )


def _write_masks(split: Annotated, folder: Path, described: Description) -> dict[str, set[int]]:
    """The classes in each mask, by image."""
    order = {name: value for value, name in described.names.items()}
    table = np.arange(256, dtype=np.uint8)
    table[1 : len(split.names) + 1] = [order[name] for name in split.names]
    palette = described.palette.tobytes()
    held = {}
    for item in tqdm(split.items, f"drawing {folder.name}", unit="mask", disable=None):
        if item.name in held:
            raise InputError(f"two images are named {item.name}: rename one of them, whatever its ending.")
        labels = table[item.draw()]
        mask = Image.fromarray(labels)
        mask.putpalette(palette)
        path = folder / f"{item.name}.png"
        write_whole(path, partial(mask.save, format="png"))
        held[item.name] = set(np.unique(labels).tolist()) - {BACKGROUND, VOID}
    return held
