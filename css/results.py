"""results.json: the one source of every table and picture."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from css.files import read_json, write_json
from css.metrics import ConfusionMatrix
from tasks import InputError

GROUPS = ("old", "old_no_bg", "new", "all", "all_no_bg", "harmonic")
_PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "albumentations", "opencv-python-headless", "numpy")


def run_facts(config: dict[str, Any], groups: list[list[int]], class_names: list[str], fingerprint: str) -> dict:
    """What is true of the whole run."""
    return {
        "config": config,
        "seed": config["seed"],
        "class_order": sum(groups, []),
        "protocol_groups": groups,
        "class_names": class_names,
        "data_fingerprint": fingerprint,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "hardware": {
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "cpu_threads": torch.get_num_threads(),
        },
    }


def task_result(task, confusion: ConfusionMatrix, num_first: int) -> dict:
    """Numbers of one task from its confusion matrix; a class without ground truth has the IoU null."""
    return {
        "index": task.index,
        "new_classes": task.new_classes,
        "train_images": len(task.train_indices),
        "test_images": len(task.test_indices),
        "confusion": confusion.matrix.tolist(),
        "iou": [None if value != value else value for value in confusion.iou().tolist()],
        "groups": confusion.groups(num_first),
        "summary": confusion.summary(),
    }


def write_results(folder: Path, facts: dict, summary: dict, tasks: list[dict], complete: bool) -> dict:
    """`summary`: scores of all tasks together."""
    results = {"complete": complete, **summary, "tasks": tasks, **facts}
    write_json(folder / "results.json", results)
    return results


def read_results(folder: Path) -> dict:
    """results.json of a run folder. Raises InputError if it is not there or not ours."""
    return _read(folder / "results.json", {"tasks", "config", "complete"})


def read_task_result(home: Path) -> dict:
    """result.json of the folder of one finished task. Raises InputError if it is not there or not ours."""
    return _read(home / "result.json", {"new_classes", "log_bytes"})


def _read(path: Path, keys: set[str]) -> dict:
    values = read_json(path)
    if not isinstance(values, dict) or not keys <= values.keys():
        raise InputError(f"{path} was not written by this program; name a run folder made by it.")
    return values


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
