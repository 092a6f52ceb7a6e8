"""Exported models as predictions see them, in their own runtimes."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tasks import InputError

FACTS = "css"  # the key of the facts in the metadata of a file: JSON with class_ids, class_names, colours, size
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


@dataclass
class ExportedNetwork:
    """A `css.predict.network.Network` around a runtime's function: uint8 (1, 3, H, W) to logits (1, C, H, W)."""

    logits: Callable[[np.ndarray], np.ndarray]
    classes: list[int]
    names: list[str]
    colours: list[list[int]]
    size: int
    precision: str  # that the runtime computes in

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Probabilities float32 (C, H, W) of an image uint8 (H, W, 3)."""
        logits = self.logits(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))[0]
        powers = np.exp(logits - logits.max(0))
        return powers / powers.sum(0)


def open_exported(path: Path, precision: str | None = None) -> ExportedNetwork:
    """A file of `css export` for onnxruntime or OpenVINO.

    Args:
        path: NAME.onnx, or NAME.xml with NAME.bin beside it.
        precision: f32 or bf16 for OpenVINO; None for what it chooses on this machine.

    Raises InputError for a file that is not there, broken or of others, and for a runtime that is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the path.")
    open_file = _open_onnx if path.suffix == SUFFIXES["onnx"] else _open_openvino
    logits, text, chosen = open_file(path, precision)
    try:
        facts = json.loads(text)
        class_ids, names, colours, size = (facts[key] for key in ("class_ids", "class_names", "colours", "size"))
        return ExportedNetwork(logits, class_ids, names, colours, size, chosen)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} was not made by css export: it does not say what its channels are.") from None


def runtime(name: str) -> ModuleType:
    """The module of a runtime, imported. Raises InputError with what to install if it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{name} is not installed; pip install 'continual-segmentation[export]'.") from None


def _open_onnx(path: Path, _: str | None) -> tuple[Callable[[np.ndarray], np.ndarray], str, str]:
    onnxruntime = runtime("onnxruntime")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common class
        raise _broken(path, error) from None
    facts = session.get_modelmeta().custom_metadata_map.get(FACTS, "")
    return lambda pixels: session.run(None, {"images": pixels})[0], facts, "f32"


def _open_openvino(path: Path, precision: str | None) -> tuple[Callable[[np.ndarray], np.ndarray], str, str]:
    openvino = runtime("openvino")
    hint: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    try:
        model = openvino.Core().read_model(path)
        facts = model.get_rt_info(FACTS).value if model.has_rt_info(FACTS) else ""
        compiled = openvino.Core().compile_model(model, "CPU", hint)
    except Exception as error:  # RuntimeError, and others
        raise _broken(path, error) from None
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda pixels: compiled(pixels)[0], facts, chosen


def _broken(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return InputError(f"{path} cannot be opened ({reason}); export the model again.")
