"""css export."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from css.export.formats import FORMATS, save_openvino
from css.export.graph import Graph, traced
from css.export.masks import read_masks
from css.export.verify import drawn, verify
from css.predict.exported import SUFFIXES, Precision
from css.predict.inputs import Item, find_items, named
from css.predict.network import RunNetwork, open_run_network
from css.predict.view import resized
from css.report.text import markdown
from css.system.files import write_json, writing
from css.system.version import TOOLKIT, version
from tasks import InputError
from tasks.reading import open_image


def export(run: tyro.conf.Positional[Path], /, format: Literal["onnx", "openvino", "torch"] = "onnx",
           out: Path | None = None, task: int | None = None, images: tuple[str, ...] = (), masks: Path | None = None,
           precision: Precision | None = None, int8: bool = False,
           calibrate: tuple[str, ...] = ()) -> None:  # fmt: skip
    """Writes a model for another runtime, and checks that it gives the same classes there.

    Images of any size go in as they are, uint8 (1, 3, height, width) RGB; logits of the same size come out. Class ids,
    names and colours are in the file. `css predict` takes .onnx and .xml.

    Args:
        run: Run folder.
        format: onnx (onnxruntime and others), openvino or torch (torch.export.load).
        out: File; default: the name of the run folder with .onnx, .xml or .pt2. FILE.json beside it holds the numbers
            of the check.
        task: Which task's model; default: the last finished one.
        images: Photographs, folders or globs to check with (the first eight, at three sizes); default: drawn images.
        masks: Folder of the masks of --images, PNG of class ids by the same names: mIoU on all is compared, too.
        precision: What css predict shall compute an OpenVINO model in; default: OpenVINO's own choice, bf16 on CPUs
            that have it.
        int8: Convolutions of an OpenVINO model in eight bits.
        calibrate: For --int8: photographs, folders or globs like those that will be predicted, some hundred.
    """
    _require_fit(format, precision, int8, calibrate, images, masks)
    items = find_items(images) if images else []
    network, shown = open_run_network(run, task), _photographs(items)
    masked = read_masks(masks, items, shown) if masks else None
    ranges = [resized(image, network.size) for image in _photographs([i for name in calibrate for i in named(name)])]
    save = partial(save_openvino, calibration=ranges) if int8 else FORMATS[format]
    path = (out or Path(run.resolve().name)).with_suffix(SUFFIXES[format])
    facts, graph = _facts(network, precision, int8), Graph(network.model)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            made = Path(folder) / path.name
            save(traced(graph), made, facts)
            found = verify(graph, made, format, facts, shown or drawn(), masked)
            parts = sorted(Path(folder).iterdir())
            size = sum(part.stat().st_size for part in parts)
            for part in parts:
                part.replace(path.with_name(part.name))
    computed = found["check"][-1]["precision"]
    write_json(path.with_name(f"{path.name}.json"), {**facts, "format": format, "computed_in": computed, **found})
    print(f"{path}: {size / 1e6:.1f} MB, {len(network.classes)} classes; computed in {computed} on this machine\n")
    print(_table(found["check"]))
    if masked:
        print(
            f"\nmIoU on {len(masked.masks)} masks: "
            + ", ".join(f"{name} {mean:.2f} %" for name, mean in found["mean_iou"].items())
        )


def _require_fit(format: str, precision: Precision | None, int8: bool, calibrate: tuple[str, ...],
                 images: tuple[str, ...], masks: Path | None) -> None:  # fmt: skip
    """Raises InputError for options that do not go together."""
    if format != "openvino" and (int8 or precision):
        raise InputError(f"--{'int8' if int8 else 'precision'} is for --format openvino; {format} is written in f32.")
    if int8 and not calibrate:
        raise InputError("--int8 needs --calibrate with photographs, on which the ranges of all maps are measured.")
    if calibrate and not int8:
        raise InputError("--calibrate is for --int8; add it, or leave --calibrate out.")
    if masks and not images:
        raise InputError("--masks are those of --images; name these, too.")


def _photographs(items: Sequence[Item]) -> list[np.ndarray]:
    """Images uint8 (H, W, 3). Raises InputError for those that cannot be read, and for videos."""
    if moving := [item for item in items if item.moving]:
        raise InputError(f"css export takes photographs, no video or camera ({moving[0].source}); save some frames.")
    return [np.array(open_image(str(item.source))) for item in items]


def _facts(network: RunNetwork, precision: Precision | None, int8: bool) -> dict[str, Any]:
    """What the file says of its model. `class_names` and `colours` stand at their class id."""
    return {
        "class_ids": network.classes, "class_names": network.names, "size": network.size,
        "colours": network.colours, "precision": precision, "int8": int8,
        "input": "uint8 RGB (1, 3, height, width)", "output": "logits (1, channels, height, width)",
        TOOLKIT: version(),
    }  # fmt: skip


def _table(found: list[dict[str, Any]]) -> str:
    rows = [
        [f"{size['height']} x {size['width']}", size["precision"], str(size["images"]), f"{100 * size['same']:.4f} %",
         f"{size['largest_difference']:.2g}"]
        for size in found
    ]  # fmt: skip
    return markdown(["size", "precision", "images", "same class", "largest difference of a logit"], rows)
