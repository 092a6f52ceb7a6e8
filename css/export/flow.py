"""A model written for another runtime: nothing is there before it has answered as the network does."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from css.export.formats import FORMATS, save_openvino
from css.export.graph import Graph, traced
from css.export.masks import Masked
from css.export.verify import drawn, verify
from css.predict.exported import SUFFIXES, Precision
from css.predict.network import RunNetwork
from css.predict.view import resized
from css.system.files import write_json, writing
from css.system.version import TOOLKIT, version
from tasks import InputError

Format = Literal["onnx", "openvino", "torch"]


def export_network(network: RunNetwork, path: Path, format: Format, images: Sequence[np.ndarray] = (),
                   masked: Masked | None = None, precision: Precision | None = None,
                   calibration: Sequence[np.ndarray] = ()) -> dict[str, Any]:  # fmt: skip
    """Writes the file and FILE.json, facts and numbers of the check, which it returns.

    Args:
        network: What is exported.
        path: The file, with the suffix of the format.
        format: Its format.
        images: uint8 (H, W, 3), which it is checked with; drawn ones if there are none.
        masked: Photographs with masks, on which it must not lose mIoU.
        precision: What OpenVINO shall compute in; None for its own choice.
        calibration: Photographs for OpenVINO in int8; none for float.

    Raises:
        InputError: the runtime is not installed, the check failed, or the file cannot be written.
    """
    require_fit(format, precision, bool(calibration))
    ranges = [resized(image, network.size) for image in calibration]
    save = partial(save_openvino, calibration=ranges) if ranges else FORMATS[format]
    facts, graph = _facts(network, precision, bool(ranges)), Graph(network.model)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            made = Path(folder) / path.name
            save(traced(graph), made, facts)
            found = verify(graph, made, format, facts, images or drawn(), masked)
            parts = list(Path(folder).iterdir())
            size = sum(part.stat().st_size for part in parts)
            for part in parts:
                part.replace(path.with_name(part.name))
    facts |= {"format": format, "bytes": size, "computed_in": found["check"][-1]["precision"], **found}
    write_json(path.with_name(f"{path.name}.json"), facts)
    return facts


def require_fit(format: Format, precision: Precision | None, int8: bool) -> None:
    """Raises InputError for what OpenVINO alone does."""
    if format != "openvino" and (int8 or precision):
        name = "int8" if int8 else f"--precision {precision}"
        raise InputError(f"{name} is for --format openvino; {format} is written in f32.")


def format_of(path: Path) -> Format:
    """By the suffix. Raises InputError for another one."""
    formats: dict[str, Format] = {
        SUFFIXES["onnx"]: "onnx",
        SUFFIXES["openvino"]: "openvino",
        SUFFIXES["torch"]: "torch",
    }
    if path.suffix not in formats:
        raise InputError(f"{path} is no name for an exported model; end it with {', '.join(formats)}.")
    return formats[path.suffix]


def _facts(network: RunNetwork, precision: Precision | None, int8: bool) -> dict[str, Any]:
    """What the file says of its model. `class_names` and `colours` stand at their class id."""
    return {
        "class_ids": network.classes, "class_names": network.names, "size": network.size,
        "colours": network.colours, "precision": precision, "int8": int8,
        "input": "uint8 RGB (1, 3, height, width)", "output": "logits (1, channels, height, width)",
        TOOLKIT: version(),
    }  # fmt: skip
