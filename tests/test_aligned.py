"""`BASE+align`, called as a user does; the alignment itself is tested in test_alignment.py."""

import pytest
import torch
from small_voc import Killed, after_first_task, css, kill_at, read_results, run_arguments

from css.method.registry import make_method
from css.system.tensors import load_tensors
from css.training.trainer import Trainer
from plop_baseline.frozen import Frozen

FROZEN = ["--method", "frozen+align"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    outcome = css(*run_arguments(data, folder, "run", *FROZEN))
    assert outcome.code == 0, outcome.err
    return folder / "run"


def tensors_of(run, task):
    return load_tensors(run / f"task_{task}" / "model.safetensors")[0]


def test_around_frozen_features_only_classifiers_move(run):
    for task in (1, 2):
        before, after = tensors_of(run, task - 1), tensors_of(run, task)
        for name in (name for name in before if name.startswith("model.")):
            assert torch.equal(before[name], after[name]) != name.startswith("model.classifiers."), name
        assert after["method.alignment.sums"].shape == (2 + task, 257 * 258 / 2)


def test_the_base_method_learns_first(run, data, monkeypatch):
    """Without the alignment at its end a task leaves what the base method alone leaves."""
    plain = ["--method", "finetune", "--task0", run]
    assert css(*run_arguments(data, run.parent, "aligned", "--method", "finetune+align", "--task0", run)).code == 0
    monkeypatch.setattr("css.s2mf.alignment.set_classifiers", lambda model, found: None)
    assert css(*run_arguments(data, run.parent, "unaligned", "--method", "finetune+align", "--task0", run)).code == 0
    assert css(*run_arguments(data, run.parent, "finetune", *plain)).code == 0
    unaligned, alone, aligned = (tensors_of(run.parent / name, 1) for name in ("unaligned", "finetune", "aligned"))
    for name in (name for name in alone if name.startswith("model.")):
        assert torch.equal(unaligned[name], alone[name]), name
    assert not torch.equal(aligned["model.classifiers.1.bias"], alone["model.classifiers.1.bias"])


def test_frozen_features_are_computed_in_one_pass(run, data, monkeypatch):
    """The network sees every training image of a later task once, and no epoch. Negative control: fine-tuning."""
    counted = []
    monkeypatch.setattr("css.training.trainer.Trainer.passes", counting(Trainer.passes, counted))
    for method, passes in (("frozen+align", 1), ("finetune+align", 2)):
        counted.clear()
        name = f"counted-{method}"
        assert css(*run_arguments(data, run.parent, name, "--method", method, "--task0", run)).code == 0
        assert [index for index, _ in counted].count(1) == [index for index, _ in counted].count(2) == passes
        assert bool(read_results(run.parent / name)["tasks"][1]["history"]) == (method != "frozen+align")


def counting(original, found):
    """Trainer.passes, which notes the task and the purpose."""

    def passes(self, task, model, purpose, most=None):
        found.append((task.index, purpose))
        return original(self, task, model, purpose, most)

    return passes


def test_seconds_are_told(run):
    seconds = read_results(run)["tasks"][1]["seconds"]
    assert seconds["alignment"] > 0 and seconds["features"] > 0


@pytest.mark.parametrize(
    ("function", "calls"), [("css.s2mf.alignment.aligned", 2), ("css.s2mf.moments.FeatureMoments.update", 5)]
)
def test_killed(function, calls, run, data, tmp_path, monkeypatch):
    """In the second alignment, and while features of the second task are counted."""
    again = run_arguments(data, tmp_path, "run", *FROZEN)
    if calls == 2:
        after_first_task(run, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(function, kill_at(function, calls))
        css(*again)
    assert (tmp_path / "run" / "task_1").exists() == (calls == 2)
    assert css(*again).code == 0
    for task in (1, 2):
        expected, found = tensors_of(run, task), tensors_of(tmp_path / "run", task)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("dataset", "protocol", "method", "words"),
    [
        ("shapes", "15-1", "joint+align", "joint training has a single one"),
        ("shapes", "15-1", "plop+s2mf+align", "BASE+s2mf aligns by itself"),
        ("shapes-cls", "10-split", "finetune+align", "--method finetune+align"),
    ],
)
def test_where_it_makes_no_sense(dataset, protocol, method, words, tmp_path):
    outcome = css("run", dataset, protocol, "--method", method, "--runs", tmp_path / "runs")
    assert outcome.code == 2 and words in outcome.complaint
    assert not (tmp_path / "runs").exists()


def test_options_of_the_base_method():
    assert "--options.base.pod-factor" in css("run", "voc", "15-1", "--method", "plop+align", "--help").out
    assert type(make_method("frozen+align").base) is Frozen
