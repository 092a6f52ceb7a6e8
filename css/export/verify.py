"""Whether an exported model answers as the network does, in its own runtime."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from css.export.masks import Masked, require_quality
from css.predict.exported import ExportedNetwork, open_exported
from tasks import InputError
from tasks.datasets.shapes import render

SIZES = ((96, 96), (321, 200), (512, 512))  # height and width; 16 does not divide those in the middle
LEAST = 0.999  # share of pixels that must have the same class
_DRAWN = 2  # synthetic images, where the user names none
_MOST = 8  # images that are compared at every size; masks are for all

Logits = Callable[[np.ndarray], np.ndarray]  # uint8 (1, 3, H, W) to float32 (1, C, H, W)


@dataclass(frozen=True)
class Agreement:
    """Of one size: share of pixels of the same class, and the largest difference of a logit."""

    height: int
    width: int
    images: int
    same: float
    largest_difference: float


def compare(ours: Logits, theirs: Logits, images: Sequence[np.ndarray]) -> list[Agreement]:
    """Both functions on the same images at every size."""
    found = []
    for height, width in SIZES:
        same, largest = [], 0.0
        for image in images:
            pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)[None]
            first, second = (function(np.ascontiguousarray(pixels)) for function in (ours, theirs))
            if first.shape != second.shape:
                raise InputError(f"The exported model gives {second.shape} for {height} x {width} pixels.")
            same.append(float((first.argmax(1) == second.argmax(1)).mean()))
            largest = max(largest, float(np.abs(first - second).max()))
        found.append(Agreement(height, width, len(images), float(np.mean(same)), largest))
    return found


def require_agreement(found: Sequence[Agreement], name: str, least: float = LEAST) -> None:
    """Raises InputError with the numbers if too many pixels have another class, or a logit is not finite."""
    for size in found:
        if not size.same >= least or not np.isfinite(size.largest_difference):
            raise InputError(
                f"{name} is not exported: at {size.height} x {size.width} only {100 * size.same:.3f} % of the pixels "
                f"have the class that the model gives (at least {100 * least:g} % must), logits differ by up to "
                f"{size.largest_difference:.3g}; please report this with the versions of torch and of the runtime."
            )


def verify(graph: torch.nn.Module, path: Path, kind: str, facts: dict[str, Any], images: Sequence[np.ndarray],
           masked: Masked | None = None) -> dict[str, Any]:  # fmt: skip
    """Compares a file with the graph in single precision; for OpenVINO also in the precision that it will compute in.

    In int8 and in lower precisions pixels may differ; what that costs, masks tell. Returns the numbers, `check` and
    with masks `mean_iou`, by precision, the last one that of `css predict`. Raises InputError if they are not good
    enough.
    """

    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return graph(torch.from_numpy(pixels)).numpy()

    check: list[dict[str, Any]] = []
    reference = ExportedNetwork.of(logits, facts, "f32")
    runtimes = _runtimes(reference, path, kind)
    for theirs in runtimes:
        found = compare(logits, theirs.logits, images[:_MOST])
        require_agreement(found, path.name, LEAST if theirs.precision == "f32" else 0.0)
        check += [{"precision": theirs.precision, **asdict(size)} for size in found]
    if masked is None:
        return {"check": check}
    ours, means = masked.mean_iou(reference), {theirs.precision: masked.mean_iou(theirs) for theirs in runtimes}
    require_quality(ours, means, path.name)
    return {"check": check, "mean_iou": {"model": ours, **means}}


def _runtimes(reference: ExportedNetwork, path: Path, kind: str) -> list[ExportedNetwork]:
    """The file in single precision, and in what it is computed in otherwise, if that is another one."""
    if kind == "torch":
        program = torch.export.load(path).module()
        return [replace(reference, logits=lambda pixels: program(torch.from_numpy(pixels)).detach().numpy())]
    chosen = open_exported(path)
    return [chosen] if kind == "onnx" or chosen.precision == "f32" else [open_exported(path, "f32"), chosen]


def drawn() -> list[np.ndarray]:
    """What is looked at where the user names no photographs."""
    return [render(512, 0, "test", index)[0] for index in range(_DRAWN)]
