"""Whether an exported model answers as the network does, in its own runtime."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from css.predict.exported import open_exported
from tasks import InputError
from tasks.datasets.shapes import render
from tasks.reading import open_image

SIZES = ((96, 96), (321, 200), (512, 512))  # height and width; 16 does not divide those in the middle
LEAST = 0.999  # share of pixels that must have the same class
_DRAWN = 2  # synthetic images, where the user names none

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


def require_agreement(found: Sequence[Agreement], name: str) -> None:
    """Raises InputError with the numbers if too many pixels have another class, or a logit is not finite."""
    for size in found:
        if not size.same >= LEAST or not np.isfinite(size.largest_difference):
            raise InputError(
                f"{name} is not exported: at {size.height} x {size.width} only {100 * size.same:.3f} % of the pixels "
                f"have the class that the model gives (at least {100 * LEAST:g} % must), logits differ by up to "
                f"{size.largest_difference:.3g}; please report this with the versions of torch and of the runtime."
            )


def verify(graph: torch.nn.Module, path: Path, kind: str, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Compares a file with the graph in single precision; for OpenVINO also in the precision that it chooses itself.

    Returns the numbers with the precision of each comparison. Raises InputError if they are not good enough.
    """

    def ours(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return graph(torch.from_numpy(pixels)).numpy()

    results = []
    for required, precision, theirs in _runtimes(path, kind):
        found = compare(ours, theirs, images)
        if required:
            require_agreement(found, path.name)
        results += [{"precision": precision, **asdict(size)} for size in found]
    return results


def _runtimes(path: Path, kind: str) -> list[tuple[bool, str, Logits]]:
    """Whether it must agree, in which precision, and the function."""
    if kind == "torch":
        program = torch.export.load(path).module()
        return [(True, "f32", lambda pixels: program(torch.from_numpy(pixels)).detach().numpy())]
    exact = open_exported(path, "f32")
    runtimes = [(True, exact.precision, exact.logits)]
    if kind == "openvino" and (chosen := open_exported(path)).precision != exact.precision:
        runtimes.append((False, chosen.precision, chosen.logits))
    return runtimes


def photographs(files: Sequence[Path]) -> list[np.ndarray]:
    """The images that the user names, or drawn ones. Raises InputError for a file that is no image."""
    if files:
        return [np.array(open_image(file)) for file in files]
    return [render(512, 0, "test", index)[0] for index in range(_DRAWN)]
