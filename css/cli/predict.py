"""css predict."""

import sys
from pathlib import Path
from typing import Literal

import tyro

from css.predict.exported import Precision
from css.predict.inputs import find_items
from css.predict.network import open_network, palette
from css.predict.outputs import Outputs, Save
from css.predict.run import predict_all
from css.predict.view import View
from tasks import InputError


def predict(model: tyro.conf.Positional[Path], inputs: tyro.conf.Positional[tuple[str, ...]], /,
            out: Path = Path("predictions"), task: int | None = None, size: int | Literal["full"] | None = None,
            tile: int | None = None, overlap: int = 64, scales: tuple[float, ...] = (1.0,), flip: bool = False,
            save: tuple[Save, ...] = ("mask", "overlay"), skip_existing: bool = False,
            precision: Precision | None = None) -> int:  # fmt: skip
    """Segments your own images and videos.

    Args:
        model: Run folder, or a file made by css export.
        inputs: Image files, videos, folders, globs in quotes, or the index of a camera.
        out: Folder of what is written.
        task: Which task's model of a run folder; default: the last finished one.
        size: Short side in pixels that the network sees, or full; default: what it was trained with, full with --tile.
        tile: For large images: side of tiles in pixels, which are segmented one by one.
        overlap: Pixels that neighbouring tiles share; their answers are blended there.
        scales: Average the answers over copies of these sizes.
        flip: Average over mirrored copies, too.
        save: mask (palette PNG), ids (grey PNG), overlay (photograph with contours and names), scores (npz, float16),
            labelme (polygons of one image), coco (polygons of all, coco.json), csv (areas, summary.csv).
        skip_existing: Leave out images whose files are all there (for coco and csv their masks are read).
        precision: What OpenVINO computes an exported model in; default: what it was exported with, else bf16 on CPUs
            that have it.
    """
    items = find_items(inputs)
    _require_fit(save, skip_existing)
    network = open_network(model, task, precision)
    if size is None and not tile:
        size = network.size
    view = View(size if isinstance(size, int) else None, tile, overlap if tile else 0, scales, flip)
    view.check()
    outputs = Outputs(out, save, network.classes, network.names, palette(network.colours))
    failures = predict_all(network, items, view, outputs, skip_existing)
    done = len(items) - len(failures)
    print(f"{done} of {len(items)} done: {', '.join(save)} in {out} (computed in {network.precision})")
    for reason in failures.values():
        print(f"css: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _require_fit(save: tuple[Save, ...], skip: bool) -> None:
    """Raises InputError for outputs that cannot be had together."""
    if not save:
        raise InputError("--save needs at least one of mask, ids, overlay, scores, labelme, coco, csv.")
    if skip and {"coco", "csv"} & set(save) and not {"mask", "ids"} & set(save):
        raise InputError("--skip-existing reads the masks of finished images for coco and csv: add --save mask.")
