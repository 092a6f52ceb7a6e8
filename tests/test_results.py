"""results.json from hand-made confusion matrices."""

import json
from types import SimpleNamespace

import pytest
import torch

from css.metrics import ConfusionMatrix
from css.report.results import read_results, write_results
from css.report.segmentation import task_result
from css.run.facts import run_facts
from tasks import InputError

CONFIG = {"dataset": "shapes", "protocol": "1-1", "setting": "overlap", "method": "plop", "seed": 3}
NAMES = ["background", "cat", "dog"]


def result(matrix, index=0, new=(0, 1)):
    confusion = ConfusionMatrix(len(matrix))
    confusion.matrix = torch.tensor(matrix)
    task = SimpleNamespace(index=index, new_classes=list(new), train_indices=[4, 7], test_indices=[1, 2, 5])
    return task_result(task, confusion, num_first=2)


def test_numbers_of_a_task():
    numbers = result([[8, 2, 0], [0, 0, 0], [0, 0, 4]], 1, [2])
    assert numbers["iou"] == [pytest.approx(0.8), None, pytest.approx(1.0)]
    assert numbers["groups"]["old"] == pytest.approx(0.8) and numbers["groups"]["old_no_bg"] is None
    assert numbers["groups"]["new"] == pytest.approx(1.0)
    assert (numbers["train_images"], numbers["test_images"], numbers["new_classes"]) == (2, 3, [2])
    assert numbers["confusion"] == [[8, 2, 0], [0, 0, 0], [0, 0, 4]]


def test_file_is_plain_json_without_nan(tmp_path):
    tasks = [result([[6, 2], [0, 8]]), result([[8, 2, 0], [0, 0, 0], [0, 0, 4]], 1, [2])]
    facts = run_facts(CONFIG, [[0, 1], [2]], NAMES, "abc")
    written = write_results(tmp_path, facts, {"avg": 0.5}, tasks, complete=True)
    assert read_results(tmp_path) == written
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text and json.loads(text) == written
    assert written["avg"] == 0.5
    assert written["class_order"] == [0, 1, 2] and written["seed"] == 3 and written["data_fingerprint"] == "abc"
    assert written["versions"]["torch"] and written["versions"]["python"]


@pytest.mark.parametrize("content", ["[]", "{}", '{"tasks": []}'])
def test_file_of_another_program(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"results.json was not written by this program"):
        read_results(tmp_path)


def test_absent_and_truncated_file(tmp_path):
    with pytest.raises(InputError, match=r"results.json does not exist"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"tasks": [')
    with pytest.raises(InputError, match=r"results.json is not readable JSON"):
        read_results(tmp_path)
