"""benchmarks/same_results.py on hand-made run folders: what it compares, and that it notices every change of it."""

import copy
import importlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

RESULTS = {
    "complete": True,
    "avg": 0.5,
    "tasks": [{"index": 0, "iou": [0.5, None], "history": [{"ce": 1.25, "seconds": 3.0}], "seconds": {"train": 3.0},
               "peak_memory_mb": 70.0, "log_bytes": 12}],
    "config": {"seed": 0, "runs": "here", "name": "a", "data_root": None, "task0": None, "train": {"lr": 0.1}},
    "versions": {"torch": "1"},
    "hardware": {"cpu_threads": 1},
}  # fmt: skip
TABLE = (
    "Title\n\n| method | all |  s | paper |\n|--------|----:|---:|------:|\n| plop   | {} | {} |  1.00 |\n\ns = time\n"
)
TENSORS = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.bfloat16)}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("same_results")


@pytest.fixture
def recording(script, tmp_path):
    """Makes a recording of one run and the table above it."""
    count = iter(range(100))

    def make(results=RESULTS, log='{"ce": 1.5}\n', tensors=TENSORS, score="45.10", seconds="17", level=6):
        table = tmp_path / str(next(count))
        home = table / "run" / "task_0"
        home.mkdir(parents=True)
        (table / "run" / "results.json").write_text(json.dumps(results))
        (table / "run" / "log.jsonl").write_text(log)
        save_file(tensors, home / "model.safetensors")
        Image.frombytes("L", (len(score), 1), score.encode()).save(home / "pictures.png", compress_level=level)
        (table / "table.md").write_text(TABLE.format(score, seconds))
        (table / "table-tasks.md").write_text("nothing")
        return {"made_with": None, "runs": {"methods": script.records_below(table)}}

    return make


def changed(*keys, to):
    """RESULTS with another value in one place."""
    results = copy.deepcopy(RESULTS)
    inner = results
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return results


def compared(script, capsys, before, after):
    code = script.compare(before, after, ["methods"])
    return code, capsys.readouterr().out


SAME = [
    {},
    {"seconds": "2000"},
    {"level": 0},
    {"results": changed("tasks", 0, "history", 0, "seconds", to=9.0)},
    {"results": changed("tasks", 0, "seconds", to={"train": 9.0, "fast": 1.0})},
    {"results": changed("tasks", 0, "peak_memory_mb", to=1.0)},
    {"results": changed("tasks", 0, "log_bytes", to=13)},
    {"results": changed("config", "runs", to="there")},
    {"results": changed("versions", "css", to="2")},
]
OTHER = [
    ({"results": changed("tasks", 0, "iou", 0, to=0.5000000000000001)}, "results: tasks.0.iou.0 is 0.5 before and"),
    ({"results": changed("tasks", 0, "iou", to=[0.5])}, "tasks.0.iou.1 is None before and absent after"),
    ({"results": changed("tasks", 0, "history", to=[])}, "tasks.0.history.0.ce is 1.25 before and absent"),
    ({"results": changed("tasks", 0, "acc", to=1.0)}, "tasks.0.acc is absent before and 1.0 after"),
    ({"results": changed("config", "train", "lr", to=0.2)}, "config.train.lr is 0.1 before and 0.2 after"),
    ({"results": changed("config", "train", to={})}, "config.train.lr is 0.1 before and absent after"),
    ({"log": '{"ce": 1.5}\n{"ce": 1.5}\n'}, "log: 1.ce is absent before and 1.5 after"),
    ({"tensors": {**TENSORS, "a": -TENSORS["b"]}}, "weights: task_0/model.safetensors.a is 'F32 [4]"),
    ({"tensors": {**TENSORS, "b": -TENSORS["b"]}}, "weights: task_0/model.safetensors.b is 'BF16 [2]"),  # -0 is not 0
    ({"tensors": {"a": TENSORS["a"]}}, "weights: task_0/model.safetensors.b is 'BF16 [2]"),
    ({"score": "45.11"}, "(table), tables: table.md.4 is '| plop   | 45.10 |  1.00 |' before"),
    ({"score": "45.11"}, "run, files: task_0/pictures.png is"),
]  # fmt: skip


@pytest.mark.parametrize("change", SAME)
def test_times_and_places_make_no_difference(change, script, recording, capsys):
    code, out = compared(script, capsys, recording(), recording(**change))
    assert code == 0 and "DIFFERENT" not in out and "2 of 2 records are equal" in out


@pytest.mark.parametrize(("change", "words"), OTHER)
def test_every_other_change_is_told(change, words, script, recording, capsys):
    code, out = compared(script, capsys, recording(), recording(**change))
    assert code == 1 and words in out and "DIFFERENT" in out


def test_a_new_setting_is_listed_once_and_no_difference(script, recording, capsys):
    code, out = compared(script, capsys, recording(), recording(changed("config", "new", to={"x": 1})))
    assert code == 0 and out.count("added: config.new.x = 1") == 1


def test_a_run_that_is_missing_is_a_difference(script, recording, capsys):
    before, after = recording(), recording()
    del after["runs"]["methods"]["run"]
    code, out = compared(script, capsys, before, after)
    assert code == 1 and "methods run, only before" in out and "1 of 2 records are equal" in out
    assert script.compare({**before, "runs": {}}, {**after, "runs": {}}, ["methods"]) == 1


def test_seconds_of_csv_and_latex_are_left_out_too(script):
    csv, tex = (
        "method,all_mean,seconds_mean,a,b\nplop,1.0,{},2,3\n",
        "method & all & s \\\\\n\\midrule\nplop & 1 & {} \\\\\n",
    )
    assert script.without_seconds(csv.format(5), ",") == "method,all_mean,a,b\nplop,1.0,2,3\n"
    for text, separator in ((csv, ","), (tex, " & ")):
        short, long, other = (script.without_seconds(text.format(cell), separator) for cell in (5, 500, "5 & 6,7"))
        assert short == long != other


def test_another_package_than_the_checkout_is_refused(script, tmp_path):
    with pytest.raises(SystemExit, match=r"holds no css/"):
        script.record(tmp_path, tmp_path / "out.json", ["settings"])
    (tmp_path / "css").mkdir()  # which holds nothing: an installed css, if there is one, would be run
    with pytest.raises(SystemExit, match=r"would be tested instead of|failed"):
        script.record(tmp_path, tmp_path / "out.json", ["settings"])
    assert not (tmp_path / "out.json").exists()
