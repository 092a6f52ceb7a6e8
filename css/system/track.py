"""Trackers of experiments, by optional import: what a run logs goes to them, too (--track)."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.errors import InputError, nearest

_WHERE = {"task", "stage", "epoch", "iteration"}  # of a step; its other keys are numbers
_PROJECT = "continual-segmentation"
_CELL = 12  # pixels of a cell of the confusion matrix


class Tracker:
    """Tracks nothing: what there is without --track, and in processes that are not the first."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """`folder` is that of the run, `config` its settings."""

    def step(self, entry: Mapping[str, Any]) -> None:
        """An entry of log.jsonl; its number is the iteration within the stage, the same one after a restart."""

    def task(self, result: Mapping[str, Any], home: Path) -> None:
        """The scores of a finished task, its confusion matrix and the pictures in its folder."""

    def end(self, table: str) -> None:
        """The table of the finished run. Nothing is tracked after it."""


class TensorBoard(Tracker):
    """Event files in RUN/tensorboard."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self.writer = module.SummaryWriter(folder / "tensorboard")
        self.writer.add_text("settings", _indented(str(dict(config))))

    def step(self, entry: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for name, value in _numbers(entry).items():
            self.writer.add_scalar(name, value, entry["iteration"])

    def task(self, result: Mapping[str, Any], home: Path) -> None:
        """See `Tracker`."""
        for name, value in scores(result).items():
            self.writer.add_scalar(name, value, result["index"])
        for name, picture in pictures(result, home).items():
            self.writer.add_image(name, picture, result["index"], dataformats="HWC")
        self.writer.flush()

    def end(self, table: str) -> None:
        """See `Tracker`."""
        self.writer.add_text("table", _indented(table))
        self.writer.close()


class Wandb(Tracker):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in RUN/wandb."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.module = importlib.import_module("wandb")
        self.run = self.module.init(project=_PROJECT, name=folder.name, dir=folder, config=dict(config))

    def step(self, entry: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self.run.log({**_numbers(entry), "iteration": entry["iteration"]})

    def task(self, result: Mapping[str, Any], home: Path) -> None:
        """See `Tracker`."""
        images = {name: self.module.Image(picture) for name, picture in pictures(result, home).items()}
        self.run.log({**scores(result), **images, "task": result["index"]})

    def end(self, table: str) -> None:
        """See `Tracker`."""
        self.run.summary["table"] = table
        self.run.finish()


class Trackio(Wandb):
    """A run of trackio, which has the functions of wandb: in TRACKIO_DIR, by default in the home folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.module = importlib.import_module("trackio")
        self.run = self.module.init(project=_PROJECT, name=folder.name, config=dict(config))

    def end(self, table: str) -> None:
        """See `Tracker`."""
        self.run.log({"table": self.module.Markdown(_indented(table))})
        self.run.finish()


class MLflow(Tracker):
    """A run of MLflow: on the server of MLFLOW_TRACKING_URI, else in RUN/mlflow.db, with its files in RUN/mlflow."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.module = importlib.import_module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            home = folder.resolve()
            self.module.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
            if not self.module.get_experiment_by_name(_PROJECT):  # else files would lie in the current folder
                self.module.create_experiment(_PROJECT, (home / "mlflow").as_uri())
        self.module.set_experiment(_PROJECT)
        self.module.start_run(run_name=folder.name)
        self.module.log_text(str(dict(config)), "settings.txt")

    def step(self, entry: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self.module.log_metrics(_numbers(entry), step=entry["iteration"])

    def task(self, result: Mapping[str, Any], home: Path) -> None:
        """See `Tracker`."""
        self.module.log_metrics(scores(result), step=result["index"])
        for name, picture in pictures(result, home).items():
            self.module.log_image(picture, f"{name}-{result['index']}.png")

    def end(self, table: str) -> None:
        """See `Tracker`."""
        self.module.log_text(table, "table.md")
        self.module.end_run()


TRACKERS = {
    "tensorboard": (TensorBoard, "tensorboard"), "wandb": (Wandb, "wandb"), "trackio": (Trackio, "trackio"),
    "mlflow": (MLflow, "mlflow"),
}  # fmt: skip


def find_tracker(name: str | None) -> type[Tracker]:
    """The tracker of this name, its package imported. Raises InputError if it is unknown or not installed."""
    if name is None:
        return Tracker
    if name not in TRACKERS:
        raise InputError(f"--track {name!r} is unknown; {nearest(name, TRACKERS)}.")
    tracker, package = TRACKERS[name]
    try:
        importlib.import_module(package)
    except ImportError:
        raise InputError(f"--track {name} needs {package}: pip install {package}, or leave it out.") from None
    return tracker


def scores(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a finished task: means of groups of classes, or the accuracy of every task."""
    groups = result.get("groups") or {f"task {n}": value for n, value in enumerate(result.get("accuracy", []))}
    return {f"score/{name}": value for name, value in groups.items() if value is not None}


def pictures(result: Mapping[str, Any], home: Path) -> dict[str, np.ndarray]:
    """Pictures of a finished task, uint8 (H, W, 3): its confusion matrix (rows add up to white) and its test images."""
    found = {}
    if "confusion" in result:
        matrix = np.array(result["confusion"], float)
        shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
        cells = np.kron(np.rint(255 * shares).astype(np.uint8), np.ones((_CELL, _CELL), np.uint8))
        found["confusion"] = np.repeat(cells[:, :, None], 3, axis=2)
    if (home / "pictures.png").is_file():
        with Image.open(home / "pictures.png") as picture:
            found["pictures"] = np.array(picture.convert("RGB"))
    return found


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    place = f"task {entry['task']} {entry['stage']}"
    return {f"{place}/{name}": value for name, value in entry.items() if name not in _WHERE}


def _indented(text: str) -> str:
    """As it is, for readers of Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())
