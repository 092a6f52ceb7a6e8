"""The data sets that come with the toolkit: one entry here is all that a new one needs beside its class.

A folder with data.yaml takes part by its path, see `tasks.folder`. A class of the user's own takes part as
"package.module:Class": it is called with the folder of `--data-root`, offers what `tasks.source.Source` lists, and says
`label_kind = "images"` if an image has one label (default: "pixels").
"""

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from tasks.errors import InputError, nearest
from tasks.protocol import split_classes, split_evenly
from tasks.source import Source

FOLDER, DATA_FILE = "tasks.folder.source:Folder", "data.yaml"
LabelKind = Literal["pixels", "images"]


@dataclass(frozen=True)
class DataSet:
    """What the toolkit knows of a data set before it is opened."""

    source: str  # "module:Class", imported when it is opened
    label_kind: LabelKind = "pixels"
    on_disk: bool = True  # opened with the folder of --data-root; else it is made in memory, once for all runs
    prepare: str = ""  # "module:function" of that folder, which downloads and builds it
    # In which its runs differ from the published VOC settings (the defaults of `css.config.settings`).
    settings: Mapping[str, Any] = field(default_factory=dict)


# As Adam-NSCL and Connector train on 10-split CIFAR-100.
_NSCL = {
    "epochs": 80, "batch": 32, "crop": 32, "optimizer": "adam", "lr": 1e-4, "later_lr": 5e-5, "classifier_lr": 1e-3,
    "batch_norm_lr": 5e-4, "weight_decay": 5e-5, "halve_at": (0.375, 0.75),
}  # fmt: skip
_PREACT = {"encoder": "preact18", "encoder_weights": "none"}

DATASETS: dict[str, DataSet] = {
    "voc": DataSet(
        "tasks.datasets.voc:Voc",
        prepare="tasks.datasets.prepare_voc:prepare",
        # 2 GPUs x 12 images, BatchNorm not synchronised
        settings={"method": "plop+s2mf", "train": {"bn_group": 12}},
    ),
    "shapes": DataSet(
        "tasks.datasets.shapes:Shapes",
        on_disk=False,
        settings={  # sized for two CPU cores
            "model": {"encoder": "resnet18", "encoder_weights": "none"},
            "train": {
                "epochs": 10, "later_epochs": 8, "batch": 16, "crop": 96, "lr": 0.05, "later_lr": 0.005, "workers": 1,
            },
        },
    ),
    "ade20k": DataSet("tasks.datasets.ade20k:Ade20k"),
    "cityscapes": DataSet("tasks.datasets.cityscapes:Cityscapes"),
    "cifar100": DataSet(
        "tasks.datasets.cifar100:Cifar100",
        "images",
        prepare="tasks.datasets.cifar100:prepare",
        settings={"method": "finetune+s2mf", "model": _PREACT, "train": _NSCL},
    ),
    "tiny-imagenet": DataSet(
        "tasks.datasets.tiny_imagenet:TinyImageNet",
        "images",
        prepare="tasks.datasets.tiny_imagenet:prepare",
        settings={
            "method": "finetune+s2mf", "model": _PREACT, "train": {**_NSCL, "crop": 64, "batch": 16, "lr": 5e-5},
        },
    ),
    "shapes-cls": DataSet(
        "tasks.datasets.single_shapes:SingleShapes",
        "images",
        on_disk=False,
        settings={
            "method": "finetune+s2mf", "model": {"encoder": "preact18-8", "encoder_weights": "none"},
            "train": {
                **_NSCL, "epochs": 10, "lr": 2e-3, "later_lr": 1e-3, "classifier_lr": 5e-3, "batch_norm_lr": 2e-3,
                "workers": 1,
            },
        },
    ),
}  # fmt: skip


def find_dataset(name: str) -> DataSet:
    """The entry of a known name, one for a folder, or one for "package.module:Class".

    Raises InputError for anything else.
    """
    if name in DATASETS:
        return DATASETS[name]
    if is_folder(name):
        return DataSet(FOLDER)
    if ":" not in str(name):
        raise InputError(
            f"Data set {name!r} is unknown; {nearest(str(name), DATASETS)}, or name your own: a folder with data.yaml "
            "(made by css data init) or package.module:Class."
        )
    return DataSet(name, getattr(_import(name, name), "label_kind", "pixels"))


def is_folder(name: str) -> bool:
    """Whether a name means a folder of the user's: it is a path, or a folder of that name with data.yaml is there."""
    return os.sep in name or (name not in DATASETS and (Path(name) / DATA_FILE).is_file())


def full_name(name: str) -> str:
    """A name that means the same from everywhere: that of a folder is its absolute path."""
    return str(Path(name).resolve()) if is_folder(name) else name


def place_of(name: str, given: Path | None) -> Path:
    """Where the data lie: the root that is given (see `data_root`); a folder of the user's where its name says.

    A folder with data.yaml that is no longer there has moved to the given root.
    """
    if not is_folder(name):
        return data_root(given)
    return given if given is not None and not (Path(name) / DATA_FILE).is_file() else Path(name)


def labels_of(name: str) -> LabelKind:
    """Whether pixels or images carry the labels of a data set. Raises InputError for an unknown one."""
    return find_dataset(name).label_kind


def split_of(name: str) -> Callable[..., list[list[int]]]:
    """What makes the groups of classes of a protocol: `split_classes`, or `split_evenly` where images have labels.

    Raises InputError for an unknown data set.
    """
    return split_classes if labels_of(name) == "pixels" else split_evenly


def data_root(given: Path | None) -> Path:
    """--data-root, else $DATA_ROOT, else ./data."""
    return given or Path(os.environ.get("DATA_ROOT", "data"))


def open_source(name: str, root: Path) -> Source:
    """The opened data set; `root` is the folder it lies in (see `place_of`), or that the user's own class is given.

    Raises InputError for an unknown name, missing data, or a class that lacks something.
    """
    found = find_dataset(name)
    if name not in DATASETS and found.source == name:
        _require_class(name, root)
    source = _import(name, found.source)(root) if found.on_disk else _rendered(found.source)
    wanted = ["name", "class_names", "presence", "load", "image_id", "fingerprint"]
    if missing := [attribute for attribute in wanted if not hasattr(source, attribute)]:
        raise InputError(
            f"Data set {name}: the class has no {' and no '.join(missing)}; "
            "tasks.source.Source says what it must offer."
        )
    return source


def prepare(name: str, root: Path) -> None:
    """Downloads, checks and builds a data set in this folder. Raises InputError if nothing is to be done for it."""
    if not find_dataset(name).prepare:
        known = [other for other, entry in DATASETS.items() if entry.prepare]
        raise InputError(f"css prepare {name}: nothing can be downloaded for this data set; {nearest(name, known)}.")
    _import(name, find_dataset(name).prepare)(root)


def _require_class(name: str, root: Path) -> None:
    found = _import(name, name)
    if not isinstance(found, type):
        raise InputError(f"Data set {name} is no class; tasks.source.Source says what it must offer.")
    try:
        inspect.signature(found).bind(root)
    except TypeError as error:
        raise InputError(
            f"Data set {name}: the class is made from one argument, the folder that --data-root names ({error})."
        ) from None


@functools.cache
def _rendered(source: str) -> Source:
    return cast(Source, _import(source, source)())


def _import(name: str, path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    try:
        return cast(Callable[..., Any], getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:  # TypeError: of ".x:Y"
        raise InputError(f"Data set {name} cannot be imported ({error}); check the module path.") from None
