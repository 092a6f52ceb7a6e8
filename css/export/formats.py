"""The formats of `css export`."""

import contextlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from css.export.int8 import quantised
from css.predict.exported import FACTS, SUFFIXES, runtime


def save_onnx(program: ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    """One ONNX file, input `images`, output `logits`, the facts in its metadata. Needs onnx and onnxscript."""
    onnx, _ = runtime("onnx"), runtime("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        exported = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], dynamo=True, external_data=False
        )
    model = exported.model_proto  # type: ignore[union-attr]  # None is for the old exporter
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.save(model, path)


def save_openvino(
    program: ExportedProgram, path: Path, facts: dict[str, Any], calibration: Sequence[np.ndarray] = ()
) -> None:
    """PATH.xml and PATH.bin, in single precision; the runtime may compute in a lower one. Needs openvino, too.

    With images uint8 (H, W, 3) for calibration, in int8; that needs nncf as well.
    """
    openvino, middle = runtime("openvino"), path.with_suffix(SUFFIXES["onnx"])
    save_onnx(program, middle, facts)
    model = openvino.convert_model(middle)
    if calibration:
        model = quantised(model, calibration)
    model.set_rt_info(json.dumps(facts), FACTS)
    openvino.save_model(model, path, compress_to_fp16=False)
    middle.unlink()


def save_torch(program: ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    """One file for torch.export.load, in Python or C++; the facts are its extra file css.json."""
    torch.export.save(program, path, extra_files={f"{FACTS}.json": json.dumps(facts)})


FORMATS = {"onnx": save_onnx, "openvino": save_openvino, "torch": save_torch}
