"""How the cells of a table are run: one after the other, beside each other, resumed, and failing."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from forked import Forked
from hand_made_runs import cells_of, rows
from small_voc import CROP, css, read_results

from css.recipe import jobs
from css.recipe.jobs import Pool
from css.run import flow as run

pytestmark = pytest.mark.usefixtures("data")  # a plain machine for every test


@pytest.fixture
def recipe(tmp_path):
    train = {"epochs": 1, "batch": 8, "crop": CROP, "workers": 0, "bn_group": None, "precision": "fp32"}
    plan = {
        "dataset": "voc", "protocols": ["2-1"], "methods": ["finetune", "plop", "mib"], "seeds": [1],
        "settings": {
            "classes": [1, 2, 3], "train": train, "model": {"encoder": "tu-test_resnet", "encoder_weights": "none"},
        },
    }  # fmt: skip
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def table(recipe, data, runs, *options):
    return css("table", recipe, "--data-root", data, "--runs", runs, *options)


def last_table(runs):
    return rows((runs / "small" / "table.md").read_text())


def test_several_at_the_same_time_give_the_same_table(recipe, data, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))
    one, two = tmp_path / "one", tmp_path / "two"
    recipe.write_text(recipe.read_text().replace("- mib\n", ""))
    alone = table(recipe, data, one)
    assert alone.code == 0, alone.err
    together = table(recipe, data, two, "--jobs", "2")
    assert together.code == 0, together.err
    cells = cells_of(recipe, two)
    for name in cells:
        first, second = (read_results(runs / "small" / name)["tasks"] for runs in (one, two))
        assert [task["confusion"] for task in first] == [task["confusion"] for task in second]
        assert bool(second[0]["history"]) == ("finetune" in name)  # the first task is learnt once
        assert f"{name}: finished" in together.err and (two / "small" / f"{name}.log").exists()
    without_seconds = [[line[:10] for line in last_table(runs)] for runs in (one, two)]
    assert without_seconds[0] == without_seconds[1] and len(cells) == 2
    before = {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}
    assert table(recipe, data, two, "--jobs", "2").code == 0
    assert {path: path.read_bytes() for path in two.rglob("*") if path.is_file()} == before


def test_a_failing_cell_does_not_stop_the_others(recipe, data, tmp_path, monkeypatch):
    from plop_baseline.plop import Plop

    def fail(*_):
        raise RuntimeError("first line\nout of everything")

    with monkeypatch.context() as patch:
        patch.setattr(Plop, "losses", fail)
        outcome = table(recipe, data, tmp_path / "runs")
    assert outcome.code == 1
    assert "voc-2-1-overlap-plop-s1 failed: out of everything\n" in outcome.err
    assert outcome.err.endswith("css: 1 of 3 cells failed; call again to resume them.\n")
    finetune, plop, mib = last_table(tmp_path / "runs")[2:]
    assert plop[2] == "0/1" and set(plop[3:]) == {"-"} and "-" not in (finetune[3], mib[3])
    learnt = []
    fit = run.Trainer.fit
    monkeypatch.setattr(run.Trainer, "fit", lambda self, *args, **kw: (learnt.append(self), fit(self, *args, **kw))[1])
    assert table(recipe, data, tmp_path / "runs").code == 0
    assert len(learnt) == 1  # the second task of plop; nothing that was finished


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("task 0\n 3%|\r100%|\ncss: Cannot write a.\n", "Cannot write a."),
        ("Traceback\n  x\nValueError: no\n", "ValueError: no (exit code 3, see LOG)"),
        ("", "unknown error (exit code 3, see LOG)"),
    ],
)
def test_the_sentence_of_a_failed_process(text, sentence, tmp_path):
    (tmp_path / "a.log").write_text(text)
    assert jobs._complaint(tmp_path / "a.log", 3).replace(str(tmp_path / "a.log"), "LOG") == sentence


def test_one_cell(recipe, data, tmp_path):
    outcome = table(recipe, data, tmp_path / "runs", "--cell", "voc-2-1-overlap-plop-s1", "--epochs", "2")
    assert outcome.code == 0 and not (tmp_path / "runs/small/table.md").exists()
    results = read_results(tmp_path / "runs/small/voc-2-1-overlap-plop-s1")
    assert [len(task["history"]) for task in results["tasks"]] == [2, 2]
    unknown = table(recipe, data, tmp_path / "runs", "--cell", "voc-2-1-overlap-ewc-s1")
    assert unknown.code == 2 and "--cell voc-2-1-overlap-ewc-s1" in unknown.complaint
    changed = table(recipe, data, tmp_path / "runs")
    assert changed.code == 2 and "train.epochs is 1 here and 2 there" in changed.complaint


@pytest.mark.parametrize(("flag", "value"), [("--jobs", "0"), ("--epochs", "0"), ("--jobs", "-1")])
def test_bad_numbers(flag, value, recipe, data, tmp_path):
    outcome = table(recipe, data, tmp_path / "runs", flag, value)
    assert outcome.code == 2 and f"{flag} must be at least 1" in outcome.complaint


def test_an_unfinished_run_of_other_settings_is_refused(recipe, data, tmp_path):
    folder = tmp_path / "runs/small/voc-2-1-overlap-plop-s1"
    assert table(recipe, data, tmp_path / "runs", "--cell", folder.name).code == 0
    (folder / "results.json").unlink()
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["train"]["lr"] = 0.5
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    outcome = table(recipe, data, tmp_path / "runs")
    assert outcome.code == 2 and "train.lr is 0.01 here and 0.5 there" in outcome.complaint


def pool(recipe, tmp_path, monkeypatch, jobs_at_once, program="import time; time.sleep(0.3)"):
    """A pool whose processes run a program of the test; `started` are the names of its cells, in order."""
    cells = list(cells_of(recipe, tmp_path / "runs").values())
    monkeypatch.setattr(jobs, "_POLL", 0.02)
    started = []

    def start(job, cell):
        started.append(cell.label)
        return subprocess.Popen([sys.executable, "-c", program])

    made = Pool(cells, cells, jobs_at_once, start)
    (tmp_path / "runs/small").mkdir(parents=True)
    for cell in cells:
        cell.config.folder.with_name(f"{cell.name}.log").write_text("css: no luck.\n")
    return made, started


def test_cells_wait_for_their_first_task(recipe, tmp_path, monkeypatch):
    made, started = pool(recipe, tmp_path, monkeypatch, 3, "import time; time.sleep(60)")
    made._start_what_can()
    assert started == ["finetune"]
    home = tmp_path / "runs/small/voc-2-1-overlap-finetune-s1/task_0"
    home.mkdir(parents=True)
    (home / "result.json").write_text("{}")
    made._start_what_can()
    assert started == ["finetune"]  # nothing to take over yet
    (home / "model.safetensors").write_text("")
    made._start_what_can()
    assert started == ["finetune", "plop", "mib"] and sorted(made.running) == [0, 1, 2]
    made._end()


def test_where_the_first_task_fails_the_next_cell_makes_it(recipe, tmp_path, monkeypatch):
    made, started = pool(recipe, tmp_path, monkeypatch, 2, "raise SystemExit(2)")
    failures = made.run()
    assert started == ["finetune", "plop", "mib"] and set(failures.values()) == {"no luck."} and len(failures) == 3


def test_an_interruption_ends_the_processes(recipe, tmp_path, monkeypatch):
    made, _ = pool(recipe, tmp_path, monkeypatch, 1, "import time; time.sleep(60)")
    processes = []

    def interrupt():
        processes.extend(process for _, process in made.running.values())
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "_collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert len(processes) == 1 and processes[0].returncode == -15


def test_who_gets_which_gpu_and_how_many_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert jobs.environment_of(0, 1) == {}
    assert jobs.environment_of(1, 2) == {"GPUS": "1", "OMP_NUM_THREADS": "4"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert jobs.environment_of(1, 2)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert [jobs.environment_of(job, 4)["CUDA_VISIBLE_DEVICES"] for job in range(4)] == ["4", "6", "7", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert jobs.environment_of(2, 3) == {"GPUS": "1", "CUDA_VISIBLE_DEVICES": "2"}
