"""benchmarks/other_formats.py: masks through COCO and labelme json differ as the border rules say, not otherwise."""

from pathlib import Path

import numpy as np
import pytest
from small_folder import write_folder
from small_voc import plain_machine

from tasks.folder import Folder
from tasks.renamed import Renamed


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import other_formats

    return other_formats


def test_what_comes_back(script, tmp_path, monkeypatch, capsys):
    with plain_machine(tmp_path / "cache"):
        folder = write_folder(
            tmp_path / "own", {21: "große Tür", 22: "Wand", 23: "Öse"}, {1: 21, 2: 22, 3: 23}, count=8
        )
        monkeypatch.setattr("sys.argv", ["other_formats", str(folder), "--out", str(tmp_path / "out"), "--crop", "64"])
        script.main()
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if " differ, " in line)
    unlike = {form: [float(word) for word in line.split() if word[0].isdigit()] for form, line in said.items()}
    assert unlike["coco-runs"] == unlike["labelme"] == [0, 0, 64, 0]
    share, elsewhere, _, in_crops = unlike["coco-outlines"]
    assert 0.5 < share < 5 and elsewhere < share / 10 and in_crops > 0.5, "void within outlines is filled"
    own, theirs = Folder(folder), Folder(tmp_path / "out" / "coco-outlines" / "folder")
    one, two = (Renamed(source, own.class_names).load("train", 0)[1] for source in (own, theirs))
    unlike = one != two
    assert unlike.any() and not (unlike & ~script.before_border(one)).any()


def test_border_by_hand(script):
    labels = np.array([[0, 0, 0, 0], [0, 5, 5, 0], [0, 5, 5, 0], [0, 0, 0, 0]])
    assert script.before_border(labels).astype(int).tolist() == [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
