"""css export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from css.export.flow import Format, export_network, require_fit
from css.export.masks import read_masks
from css.predict.exported import SUFFIXES, Precision
from css.predict.inputs import Item, find_items, named
from css.predict.network import open_run_network
from css.report.text import markdown
from tasks import InputError
from tasks.reading import open_image


def export(run: tyro.conf.Positional[Path], /, format: Format = "onnx", out: Path | None = None,
           task: int | None = None, images: tuple[str, ...] = (), masks: Path | None = None,
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
    require_fit(format, precision, int8)
    _require_together(int8, calibrate, images, masks)
    items = find_items(images) if images else []
    network, shown = open_run_network(run, task), _photographs(items)
    masked = read_masks(masks, items, shown) if masks else None
    calibration = _photographs([item for name in calibrate for item in named(name)])
    path = (out or Path(run.resolve().name)).with_suffix(SUFFIXES[format])
    facts = export_network(network, path, format, shown, masked, precision, calibration)
    size, computed = facts["bytes"] / 1e6, facts["computed_in"]
    print(f"{path}: {size:.1f} MB, {len(network.classes)} classes; computed in {computed} on this machine\n")
    print(_table(facts["check"]))
    if masked:
        print(
            f"\nmIoU on {len(shown)} masks: " + ", ".join(f"{k} {mean:.2f} %" for k, mean in facts["mean_iou"].items())
        )


def _require_together(int8: bool, calibrate: Sequence[str], images: Sequence[str], masks: Path | None) -> None:
    """Raises InputError for an option without the other one that it needs."""
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


def _table(found: list[dict[str, Any]]) -> str:
    rows = [
        [f"{size['height']} x {size['width']}", size["precision"], str(size["images"]), f"{100 * size['same']:.4f} %",
         f"{size['largest_difference']:.2g}"]
        for size in found
    ]  # fmt: skip
    return markdown(["size", "precision", "images", "same class", "largest difference of a logit"], rows)
