"""Exported models as predictions see them, in their own runtimes."""

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from tasks import InputError

FACTS = "css"  # the key of the facts in the metadata of a file: JSON with class_ids, class_names, colours, size
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
Precision = Literal["f32", "bf16"]
_Function = Callable[[np.ndarray], np.ndarray]


@dataclass
class ExportedNetwork:
    """A `css.predict.network.Network` around a runtime's function: uint8 (1, 3, H, W) to logits (1, C, H, W)."""

    logits: _Function
    classes: list[int]
    names: list[str]
    colours: list[list[int]]
    size: int
    precision: str  # that the runtime computes in; "int8, bf16" if some layers are of eight bits and the rest is not

    @classmethod
    def of(cls, logits: _Function, facts: dict[str, Any], precision: str) -> "ExportedNetwork":
        """With the facts of a file."""
        return cls(logits, facts["class_ids"], facts["class_names"], facts["colours"], facts["size"], precision)

    def scores(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Probabilities float32 (C, H, W) of images uint8 (H, W, 3), one by one, as the files take them."""
        return [self._scores(np.ascontiguousarray(image.transpose(2, 0, 1)[None])) for image in images]

    def _scores(self, pixels: np.ndarray) -> np.ndarray:
        logits = self.logits(pixels)[0]
        powers = np.exp(logits - logits.max(0))
        return powers / powers.sum(0)


def open_exported(path: Path, precision: Precision | None = None) -> ExportedNetwork:
    """A file of `css export` for onnxruntime or OpenVINO.

    Args:
        path: NAME.onnx, or NAME.xml with NAME.bin beside it.
        precision: For OpenVINO, which has its own choice on a machine without it; None for what the file asks for.

    Raises InputError for a file that is not there, broken or of others, for a runtime that is not installed, and for a
    precision that this one does not know.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the path.")
    if path.suffix == SUFFIXES["openvino"]:
        return _open_openvino(path, precision)
    if precision is not None:
        raise InputError(f"--precision is for OpenVINO (NAME.xml); {path} is computed in f32.")
    return _open_onnx(path)


def runtime(name: str) -> ModuleType:
    """The module of a runtime, imported. Raises InputError with what to install if it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{name} is not installed; pip install 'continual-segmentation[export]'.") from None


def _open_onnx(path: Path) -> ExportedNetwork:
    onnxruntime = runtime("onnxruntime")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common class
        raise _broken(path, error) from None
    facts = _facts(path, session.get_modelmeta().custom_metadata_map.get(FACTS, ""))
    return ExportedNetwork.of(lambda pixels: session.run(None, {"images": pixels})[0], facts, "f32")


def _open_openvino(path: Path, precision: Precision | None) -> ExportedNetwork:
    openvino = runtime("openvino")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        text = model.get_rt_info(FACTS).value if model.has_rt_info(FACTS) else ""
    except Exception as error:  # RuntimeError, and others
        raise _broken(path, error) from None
    facts = _facts(path, text)
    wanted = precision or facts.get("precision")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": wanted} if wanted else {})
    found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    computed = f"int8, {found}" if facts.get("int8") else found
    return ExportedNetwork.of(lambda pixels: compiled(pixels)[0], facts, computed)


def _facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
        if {"class_ids", "class_names", "colours", "size"} <= facts.keys():
            return facts
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{path} was not made by css export: it does not say what its channels are.")


def _broken(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return InputError(f"{path} cannot be opened ({reason}); export the model again.")
