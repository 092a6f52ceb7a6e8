"""css export."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro

from css.export.formats import FORMATS
from css.export.graph import Graph, traced
from css.export.verify import photographs, verify
from css.predict.exported import SUFFIXES
from css.predict.network import RunNetwork, open_run_network
from css.report.text import markdown
from css.system.files import write_json, writing
from css.system.version import TOOLKIT, version


def export(run: tyro.conf.Positional[Path], /, format: Literal["onnx", "openvino", "torch"] = "onnx",
           out: Path | None = None, task: int | None = None, images: tuple[Path, ...] = ()) -> None:  # fmt: skip
    """Writes a model for another runtime, and checks that it gives the same classes there.

    Images of any size go in as they are, uint8 (1, 3, height, width) RGB; logits of the same size come out. Class ids,
    names and colours are in the file. `css predict` takes .onnx and .xml.

    Args:
        run: Run folder.
        format: onnx (onnxruntime and others), openvino or torch (torch.export.load).
        out: File; default: the name of the run folder with .onnx, .xml or .pt2. FILE.json beside it holds the numbers
            of the check.
        task: Which task's model; default: the last finished one.
        images: Photographs to check with; default: drawn ones.
    """
    network, shown = open_run_network(run, task), photographs(images)
    path = (out or Path(run.resolve().name)).with_suffix(SUFFIXES[format])
    facts, graph = _facts(network), Graph(network.model)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            made = Path(folder) / path.name
            FORMATS[format](traced(graph), made, facts)
            found = verify(graph, made, format, shown)
            parts = sorted(Path(folder).iterdir())
            size = sum(part.stat().st_size for part in parts)
            for part in parts:
                part.replace(path.with_name(part.name))
    write_json(path.with_name(f"{path.name}.json"), {**facts, "format": format, "check": found})
    print(f"{path}: {size / 1e6:.1f} MB, {len(network.classes)} classes; compared with PyTorch in single precision\n")
    print(_table(found))


def _facts(network: RunNetwork) -> dict[str, Any]:
    """What the file says of its model. `class_names` and `colours` stand at their class id."""
    return {
        "class_ids": network.classes, "class_names": network.names, "size": network.size,
        "colours": network.colours,
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
