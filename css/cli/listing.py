"""css prepare | list."""

from pathlib import Path

import tyro

from css.config.methods import METHODS, WRAPPERS, summary_of
from tasks.datasets import registry


def prepare(dataset: tyro.conf.Positional[str], /, data_root: Path | None = None) -> None:
    """Downloads, checks and builds a data set.

    Args:
        dataset: voc (VOC 2012 with the augmented masks, about 3.5 GB of downloads), cifar100 (160 MB) or tiny-imagenet
            (240 MB).
        data_root: Where to; default: $DATA_ROOT, else ./data.
    """
    registry.prepare(dataset, registry.data_root(data_root))


def list_all() -> None:
    """Data sets and methods."""
    print("Data sets: " + ", ".join(registry.DATASETS) + ", or a folder with data.yaml (see css data)")
    print("Methods:")
    for name, path in METHODS.items():
        print(f"  {name:11} {summary_of(path)}")
    print("Around one of them, for example plop (+s2mf and +replay: one that learns by its losses alone):")
    for name, path in WRAPPERS.items():
        print(f"  {f'plop+{name}':11} {summary_of(path)}")
