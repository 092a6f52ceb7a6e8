"""A network as predictions see it: an image in, the probabilities of its classes out; of a run or an exported file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from css.config.settings import RunConfig
from css.kinds.choice import kind_of
from css.losses import upsample
from css.model.segmenter import Segmenter
from css.predict.exported import SUFFIXES, Precision, open_exported
from css.report.results import read_results
from css.run.saved import config_of, finished_task, load_model
from css.system.processes import Processes
from css.training.loaders import DTYPES, autocast
from tasks import InputError
from tasks.palette import distinct_palette
from tasks.source import VOID

MULTIPLE = 16  # sides that a Segmenter takes
_EXACT = ("classifiers", "hidden")  # parts that are computed in float32 where they see hypercolumns


class Network(Protocol):
    """What turns images into probabilities."""

    names: list[str]  # by raw class id
    colours: list[list[int]]  # RGB of masks, by raw class id; empty if the data set has none of its own

    @property
    def classes(self) -> list[int]:
        """Raw class id of every channel."""

    @property
    def size(self) -> int:
        """Short side in pixels that it was trained with."""

    @property
    def precision(self) -> str:
        """That it computes in, as its runtime calls it."""

    def scores(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Probabilities float32 (C, H, W) of each of some images uint8 (H, W, 3), which are seen together.

        Their sides may be any, but agree where they are rounded up to a `MULTIPLE`.
        """


@dataclass
class RunNetwork:
    """The model of a run folder, in the run's precision."""

    model: Segmenter
    config: RunConfig
    names: list[str]
    colours: list[list[int]]
    processes: Processes

    @property
    def classes(self) -> list[int]:
        """See `Network`."""
        return self.model.classes

    @property
    def size(self) -> int:
        """See `Network`."""
        return self.config.train.crop

    @property
    def precision(self) -> str:
        """See `Network`."""
        return self.config.train.precision

    def cast(self) -> "RunNetwork":
        """Keeps the convolutions' weights in the run's precision: autocast would make them anew for every image.

        The answers are the same. Not for an export, which begins with the weights as they were trained.
        """
        for name, part in self.model.named_children():
            for module in part.modules():
                if isinstance(module, nn.Conv2d) and name not in _EXACT:
                    module.to(DTYPES[self.config.train.precision])
        return self

    def scores(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Network`."""
        pixels = torch.from_numpy(np.stack([padded(image) for image in images]).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode(), autocast(self.config, self.processes):
            logits = self.model.eval()(self.model.normalise(pixels)).logits
        full = upsample(logits, pixels[:, 0])
        sides = [image.shape[:2] for image in images]
        return [one[:, :h, :w].softmax(0).cpu().numpy() for one, (h, w) in zip(full, sides, strict=True)]


def open_run_network(run: Path, task: int | None) -> RunNetwork:
    """The model of a task of a run, the last one if None. Raises InputError if it is none that draws masks."""
    config = config_of(run)
    kind_of(config.dataset).require_masks("css predict")
    index, processes = finished_task(run, task), Processes.join()
    model = load_model(run, config, index, processes)
    results = read_results(run)
    if max(model.classes) >= VOID:
        raise InputError(f"{run} has the class id {max(model.classes)}; masks of 8 bits hold the ids 0 to {VOID - 1}.")
    return RunNetwork(model, config, results["class_names"], results.get("colours", []), processes)


def palette(colours: list[list[int]]) -> np.ndarray:
    """The palette of masks, uint8 (256, 3): the colours of a network, and distinct ones where it has none."""
    made = distinct_palette().copy()
    made[: len(colours)] = np.array(colours, np.uint8).reshape(-1, 3)
    return made


def padded(image: np.ndarray) -> np.ndarray:
    """The image with its last row and column repeated until 16 divides both sides."""
    bottom, right = (-side % MULTIPLE for side in image.shape[:2])
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge") if bottom or right else image


def open_network(path: Path, task: int | None = None, precision: Precision | None = None) -> Network:
    """A run folder's model, or an exported one. Raises InputError for anything else.

    Args:
        path: Run folder, or a file made by `css export`.
        task: Task of a run folder; None for the last.
        precision: Of an OpenVINO file; None for what it asks for.
    """
    if path.suffix in (SUFFIXES["onnx"], SUFFIXES["openvino"]) and not path.is_dir():
        if task is not None:
            raise InputError(f"--task is for run folders; {path} holds one model.")
        return open_exported(path, precision)
    if path.is_file():
        raise InputError(f"{path} is no run folder; exported models are .onnx (onnxruntime) and .xml (OpenVINO).")
    network = open_run_network(path, task).cast()
    if precision is not None:
        raise InputError(
            f"--precision is for OpenVINO (NAME.xml); {path} is computed in {network.precision}, as trained."
        )
    return network
