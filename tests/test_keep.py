"""--keep last: one model per run is enough to go on from, bit by bit; whatever needs another one says so."""

import json
import shutil
import signal

import pytest
import torch
from hand_made_runs import cells_of, write_recipe
from safetensors.torch import load_file
from small_voc import after_first_task, css, read_results, run_arguments
from test_resume import assert_same, exit_code_of_life, numbers

from css.recipe.tidy import tidy
from css.run.folder import drop_models, is_dropped
from tasks.datasets.voc import IMAGES

EWC = ("--method", "ewc", "--keep", "last")  # whose importances grow from task to task

pytestmark = pytest.mark.usefixtures("data")  # a plain machine for every test


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two runs of three tasks: `all`, of which every model is there, and `last`, which has dropped two while it ran."""
    runs = tmp_path_factory.mktemp("runs")
    assert css(*run_arguments(data, runs, "all", "--method", "ewc")).code == 0
    assert css(*run_arguments(data, runs, "last", *EWC, "--task0", runs / "all")).code == 0
    return runs


def tensors_in(run) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*.safetensors"))


def test_the_last_model_alone_is_left_and_nothing_else_changes(runs):
    predictions = [f"task_{task}/predictions.safetensors" for task in range(3)]
    assert tensors_in(runs / "last") == sorted([*predictions, "task_2/model.safetensors"])
    assert len(tensors_in(runs / "all")) == 6
    kept, dropped = (load_file(runs / name / "task_2/model.safetensors") for name in ("all", "last"))
    assert any(name.startswith("method.") for name in kept)
    assert all(torch.equal(kept[name], dropped[name]) for name in kept) and kept.keys() == dropped.keys()
    for task in (1, 2):
        assert (runs / "last" / f"task_{task}/pictures.png").read_bytes() == (
            runs / "all" / f"task_{task}/pictures.png"
        ).read_bytes()


def test_killed_run_goes_on_bit_by_bit(data, runs, tmp_path):
    """Killed after the first model is gone, in the last task, before the second is gone; by a process of its own."""
    run = after_first_task(runs / "last", tmp_path / "run")  # whose first model is gone, too
    shutil.copy(runs / "all/task_0/model.safetensors", run / "task_0")
    again = run_arguments(data, tmp_path, "run", *EWC)
    moments = [("css.run.flow.load_task", 2), ("css.system.log.Log.write", 1), ("css.run.flow.drop_models", 1)]
    left = []
    for function, calls in moments:
        assert exit_code_of_life(again, tmp_path / "cache", function, calls) == -signal.SIGKILL
        left.append([task for task in range(3) if (run / f"task_{task}/model.safetensors").exists()])
    assert left == [[1], [1], [1, 2]]
    assert css(*again).code == 0
    without_place(run, runs / "last")
    assert_same(run, runs / "last")


def without_place(*runs) -> None:
    """`assert_same` compares settings; one of the runs took its first task from elsewhere, with nothing to log."""
    for run in runs:
        results = read_results(run)
        results["config"]["task0"] = None
        results["tasks"][0]["history"] = []
        (run / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize("method", ["hypercolumn", "analytic"])
def test_the_last_model_is_enough_for_methods_that_change_the_network(method, data, tmp_path, monkeypatch):
    """A task learnt after those before it were read without the first one's model is the task as it was."""
    for module in ("css.model.hypercolumn", "css.s2mf.hypercolumns"):
        monkeypatch.setattr(f"{module}.COMPONENTS", 32)  # there are not enough places for more
    arguments = run_arguments(data, tmp_path, "run", "--method", method)
    assert css(*arguments).code == 0
    whole, expected = numbers(tmp_path / "run"), load_file(tmp_path / "run/task_2/model.safetensors")
    shutil.rmtree(tmp_path / "run/task_2")
    (tmp_path / "run/results.json").unlink()
    drop_models(tmp_path / "run", 1)
    assert is_dropped(tmp_path / "run", 0) and not is_dropped(tmp_path / "run", 1)
    assert css(*arguments).code == 0
    assert numbers(tmp_path / "run") == whole
    found = load_file(tmp_path / "run/task_2/model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_that_is_needed_is_missed(data, runs, tmp_path):
    """The last finished one; the tests above would notice if it were not read."""
    run = after_first_task(runs / "all", tmp_path / "run")
    (run / "task_0/model.safetensors").unlink()
    outcome = css(*run_arguments(data, tmp_path, "run", "--method", "ewc"))
    assert outcome.code == 2 and "task_0/model.safetensors is missing" in outcome.complaint


def test_what_still_works(runs):
    assert css("report", runs / "last").code == 0
    assert css("evaluate", runs / "last").out == css("evaluate", runs / "all").out.replace("/all,", "/last,")


@pytest.mark.parametrize("command", [["evaluate", "RUN", "--task", "0"], ["predict", "RUN", "IMAGE", "--task", "1"]])
def test_an_earlier_model_is_asked_for(command, data, runs):
    words = {"RUN": runs / "last", "IMAGE": data / IMAGES / "test_000.jpg"}
    outcome = css(*[words.get(word, word) for word in command])
    assert outcome.code == 2
    assert "last has kept the model of its last task alone, not of task" in outcome.complaint
    assert "--keep all" in outcome.complaint


def test_a_first_task_that_was_dropped_is_not_lent(data, runs):
    outcome = css(*run_arguments(data, runs, "other", "--method", "plop", "--task0", runs / "last"))
    assert outcome.code == 2 and "has not kept the model of its first task (--keep last)" in outcome.complaint
    assert not (runs / "other").exists()


def test_a_finished_run_can_be_tidied_up(data, runs, tmp_path):
    shutil.copytree(runs / "all", tmp_path / "all")
    assert css(*run_arguments(data, tmp_path, "all", *EWC)).code == 0
    assert tensors_in(tmp_path / "all") == tensors_in(runs / "last")
    assert css(*run_arguments(data, tmp_path, "all", "--method", "ewc")).code == 0  # and shown with either
    assert not list(tmp_path.rglob("task_0/model.safetensors"))


def test_what_is_dropped(tmp_path):
    for task in range(4):
        home = tmp_path / f"task_{task}"
        home.mkdir()
        for name in ("model", "s2mf", "predictions"):
            (home / f"{name}.safetensors").touch()
        (home / "result.json").touch()
    drop_models(tmp_path, 2, spared={0})
    named = {name: [task for task in range(4) if (tmp_path / f"task_{task}/{name}.safetensors").exists()]
             for name in ("model", "s2mf", "predictions")}  # fmt: skip
    assert named == {"model": [0, 2, 3], "s2mf": [3], "predictions": [0, 1, 2, 3]}
    assert len(list(tmp_path.rglob("result.json"))) == 4


@pytest.fixture
def cells(tmp_path):
    """Cells of finished runs of two tasks with --keep last, but `mib`, which has not begun; nothing but their files."""
    recipe = write_recipe(
        tmp_path / "small.yaml", methods=["plop", "finetune", "mib", "joint"], settings={"keep": "last"}
    )
    cells = {cell.label: cell for cell in cells_of(recipe, tmp_path / "runs").values()}
    for label in ("plop", "finetune", "joint"):
        begin(cells[label])
        end(cells[label])
    return cells


def begin(cell, task=0):
    home = cell.config.folder / f"task_{task}"
    home.mkdir(parents=True)
    (home / "result.json").touch()
    (home / "model.safetensors").touch()


def end(cell):
    if not cell.joint:
        begin(cell, 1)
    tasks = [{}] * (1 if cell.joint else 2)
    (cell.config.folder / "results.json").write_text(json.dumps({"complete": True, "config": {}, "tasks": tasks}))


def models_of(cells) -> dict[str, list[int]]:
    return {label: [task for task in (0, 1) if (cell.config.folder / f"task_{task}/model.safetensors").exists()]
            for label, cell in cells.items()}  # fmt: skip


def test_first_tasks_stay_until_every_cell_has_one_and_then_one_of_them(cells, monkeypatch):
    monkeypatch.setattr("css.recipe.tidy.unreadable", lambda cells: {})
    tidy(list(cells.values()))
    assert models_of(cells) == {"plop": [0, 1], "finetune": [0, 1], "mib": [], "joint": [0]}
    begin(cells["mib"])
    tidy(list(cells.values()))
    assert models_of(cells) == {"plop": [0, 1], "finetune": [1], "mib": [0], "joint": [0]}
    end(cells["mib"])
    tidy(list(cells.values()))
    tidy(list(cells.values()))
    assert models_of(cells) == {"plop": [0, 1], "finetune": [1], "mib": [1], "joint": [0]}


def test_nothing_of_a_damaged_cell_is_dropped(cells):
    (cells["finetune"].config.folder / "results.json").write_text("{}")
    begin(cells["mib"])
    tidy(list(cells.values()))
    assert models_of(cells)["finetune"] == [0, 1]
