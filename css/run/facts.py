"""What is true of a whole run: settings, data, versions, hardware."""

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from css.system.version import TOOLKIT, commit, version

_PACKAGES = (
    "torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations", "opencv-python-headless", "numpy",
)  # fmt: skip


def run_facts(config: dict[str, Any], groups: list[list[int]], class_names: list[str], fingerprint: str,
              colours: Sequence[list[int]] = ()) -> dict:  # fmt: skip
    """What is true of the whole run. `class_names` and `colours` (RGB) are by raw class id."""
    return {
        "config": config,
        "seed": config["seed"],
        "class_order": sum(groups, []),
        "protocol_groups": groups,
        "class_names": class_names,
        "colours": list(colours),
        "data_fingerprint": fingerprint,
        "versions": {
            TOOLKIT: " ".join(filter(None, (version(), commit()))),
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "hardware": {
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "cpu": _cpu_model(),
            "cpu_threads": torch.get_num_threads(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """As Linux names it; what Python knows elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
