"""What trackers get; their packages are optional."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_voc import css, run_arguments

from css.system.log import Log
from css.system.track import Tracker, find_tracker, pictures, scores
from tasks import InputError

RESULT = {"index": 1, "confusion": [[3, 1], [0, 0]], "groups": {"old": 0.5, "new": None}}
ENTRY = {"task": 1, "stage": "fit", "epoch": 0, "iteration": 7, "lr": 0.1, "ce": 2.5}


def test_log_shows_what_it_writes(tmp_path):
    seen = []
    Log(tmp_path / "log.jsonl", seen.append).write(ENTRY)
    Log(None, seen.append).write(ENTRY)
    assert seen == [ENTRY]


def test_scores():
    assert scores(RESULT) == {"score/old": 0.5}
    assert scores({"accuracy": [0.25, 1.0]}) == {"score/task 0": 0.25, "score/task 1": 1.0}


def test_pictures(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "pictures.png")
    found = pictures(RESULT, tmp_path)
    assert found["pictures"].shape == (10, 20, 3) and found["confusion"].shape == (24, 24, 3)
    assert found["confusion"][::12, ::12, 0].tolist() == [[191, 64], [0, 0]], "shares of the rows"
    assert pictures({"accuracy": [1.0]}, tmp_path / "none") == {}


def test_nothing_is_imported_unless_asked_for(tmp_path):
    assert find_tracker(None) is Tracker
    tracker = find_tracker(None)(tmp_path, {})
    tracker.step(ENTRY)
    tracker.end("table")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"pip install {name}"):
        find_tracker(name)


@pytest.mark.usefixtures("data")
def test_an_unknown_tracker_is_refused_before_anything_is_written(data, tmp_path):
    outcome = css(*run_arguments(data, tmp_path / "runs", "run", "--track", "tensorbord"))
    assert outcome.code == 2 and "did you mean tensorboard" in outcome.complaint and not (tmp_path / "runs").exists()


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = find_tracker("tensorboard")(tmp_path, {"seed": 3})
    tracker.step(ENTRY)
    tracker.task(RESULT, tmp_path)
    tracker.end("| a |")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"task 1 fit/ce", "task 1 fit/lr", "score/old"}
    (loss,) = events.Scalars("task 1 fit/ce")
    assert (loss.step, loss.value) == (7, 2.5)
    assert events.Tags()["images"] == ["confusion"] and len(events.Tags()["tensors"]) == 2


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    tracker = find_tracker("wandb")(tmp_path, {"seed": 3})
    tracker.step(ENTRY)
    tracker.task(RESULT, tmp_path)
    tracker.end("| a |")
    sys.modules["wandb"].teardown()  # its own process writes the file out
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"task 1 fit/ce" in file.read_bytes() and b"score/old" in file.read_bytes()


def test_trackio_in_a_folder(tmp_path):
    """In a process of its own: trackio reads its folder when it is imported."""
    pytest.importorskip("trackio", reason="trackio is not installed")
    code = (
        "from test_track import ENTRY, RESULT; from css.system.track import find_tracker; from pathlib import Path\n"
        f"tracker = find_tracker('trackio')(Path({str(tmp_path / 'run')!r}), {{'seed': 3}})\n"
        f"tracker.step(ENTRY); tracker.task(RESULT, Path({str(tmp_path)!r})); tracker.end('| a |')\n"
        "from trackio.sqlite_storage import SQLiteStorage; import json\n"
        "print(json.dumps(SQLiteStorage.get_logs('continual-segmentation', 'run')))"
    )
    paths = os.pathsep.join(str(Path(__file__).parents[n]) for n in (0, 1))
    shell = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept"), "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=shell, capture_output=True, text=True, check=True)
    step, task, end = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    assert (step["task 1 fit/ce"], step["iteration"]) == (2.5, 7)
    assert (task["score/old"], task["task"]) == (0.5, 1) and "| a |" in str(end["table"])
    with Image.open(tmp_path / "kept" / "media" / task["confusion"]["file_path"]) as picture:
        assert picture.size == (24, 24)


def test_mlflow_without_a_server(tmp_path, monkeypatch):
    """Twice: a run that was killed goes on in the same folder."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow is not installed completely")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        tracker = find_tracker("mlflow")(tmp_path, {"seed": 3})
        tracker.step(ENTRY)
        tracker.task(RESULT, tmp_path)
        tracker.end("| a |")
    first, second = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert first.data.metrics == second.data.metrics == {"task 1 fit/lr": 0.1, "task 1 fit/ce": 2.5, "score/old": 0.5}
    files = {path.name for path in (tmp_path / "mlflow").rglob("*") if path.is_file()}
    assert files == {"settings.txt", "confusion-1.png", "table.md"}
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow", "mlflow.db"}


@pytest.mark.usefixtures("data")
def test_a_run_is_tracked(data, tmp_path, monkeypatch):
    got = []

    class Recorder(Tracker):
        def __init__(self, folder: Path, config: dict) -> None:
            got.append(("start", folder.name, config["method"]))

        def step(self, entry):
            got.append(("step", entry["task"]))

        def task(self, result, home):
            got.append(
                ("task", result["index"], np.array(result["confusion"]).shape, (home / "pictures.png").is_file())
            )

        def end(self, table):
            got.append(("end", table.splitlines()[0]))

    monkeypatch.setitem(sys.modules, "mine", sys)
    monkeypatch.setattr("css.system.track.TRACKERS", {"mine": (Recorder, "mine")})
    arguments = run_arguments(data, tmp_path, "run", "--method", "finetune", "--track", "mine", protocol="2-1")
    assert css(*arguments).code == 0
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [call for call in got if call[0] == "step"] == [("step", entry["task"]) for entry in steps]
    assert got[0] == ("start", "run", "finetune") and got[-1] == ("end", "voc 2-1 overlap, finetune, seed 0: mIoU in %")
    assert [call for call in got if call[0] == "task"] == [("task", 0, (3, 3), True), ("task", 1, (4, 4), True)]
