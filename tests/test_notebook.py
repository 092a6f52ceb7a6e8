"""The notebook in examples/ runs from top to bottom, without a screen."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from small_voc import plain_machine

import css

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "add_a_class.ipynb"


def test_it_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with plain_machine(tmp_path / "cache"):
        notebook = nbformat.read(NOTEBOOK, 4)
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
        )
        client.execute()
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        text = "".join(output.text for output in outputs if output.output_type == "stream")
        assert "3: 'triangle'" in text and "circle" in text
        assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
        assert css.load(tmp_path / "add-a-class" / "shipped").names[3] == "triangle"


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
