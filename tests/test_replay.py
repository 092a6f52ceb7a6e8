"""Replay around a base method: the term by hand, the memory on disk, the command line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_voc import Killed, after_first_task, css, kill_at, read_results, run_arguments
from torch import nn

from css.kinds.segmentation import Segmentation
from css.losses import cross_entropy
from css.method.contract import Method
from css.method.registry import make_method
from css.report.results import remarks
from css.system.processes import Processes
from css.system.tensors import load_tensors
from plop_baseline.mib import Mib
from plop_baseline.replay import Replay
from tasks import Stream
from tasks.datasets.shapes import Shapes

OPTIONS = ["--options.memory", "6", "--options.batch", "3"]


class Silent(Method):
    """A base method with a constant for a loss."""

    def losses(self, task, forward, teacher, images, labels):
        return {"base": torch.tensor(2.0)}


class Plain(nn.Module):
    """Pixels are logits."""

    def forward(self, images):
        return SimpleNamespace(logits=images)

    def normalise(self, pixels):
        return pixels.float() / 100


@pytest.fixture
def second_task():
    stream = Stream.cut(Shapes(size=32, train_images=60, test_images=40), "2-2", ["1", "2", "3", "4"])
    return stream.task(0), stream.task(1)


def trainer():
    train = SimpleNamespace(crop=32)
    return SimpleNamespace(kind=Segmentation(), config=SimpleNamespace(train=train, seed=3), processes=Processes())


def method_around(base, memory=6, batch=4):
    return Replay(Replay.Options(memory=memory, batch=batch), base())


def test_term_is_the_cross_entropy_of_kept_images_with_labels_of_all_classes(second_task):
    first, second = second_task
    method = method_around(Silent)
    assert isinstance(method, Replay)
    method.finish(first, None, trainer())
    losses = method.objective(second, Plain(), None, trainer())
    torch.manual_seed(5)
    found = losses(Plain(), None, None)
    torch.manual_seed(5)
    pixels, labels = method.memory.draw(second, None, 4, trainer())
    assert found == {"base": 2.0, "replay": pytest.approx(cross_entropy(pixels.float() / 100, labels).item())}
    assert 1 in labels and 1 not in np.unique(second.train_lut)  # the old class, which a label of now calls background


def test_memory_comes_back(second_task):
    method = method_around(Silent)
    for task in second_task:
        method.finish(task, None, trainer())
    again = method_around(Silent)
    again.load_tensors(method.tensors())
    assert len(again.memory.indices) == 2
    assert all(map(torch.equal, again.memory.indices, method.memory.indices))


def test_stream_and_restart(data, tmp_path, monkeypatch):
    def arguments(name, *options):
        return run_arguments(data, tmp_path, name, *options, protocol="2-1")

    replay = ["--method", "plop+replay", *OPTIONS]
    assert css(*arguments("whole", *replay)).code == 0
    (epoch,) = read_results(tmp_path / "whole")["tasks"][1]["history"]
    assert {"ce", "pod", "replay"} < epoch.keys() and epoch["replay"] > 0
    assert "Up to 6 images of every task are kept" in css("report", tmp_path / "whole").out
    after_first_task(tmp_path / "whole", tmp_path / "again")
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    steps = sum(json.loads(line)["task"] == 1 for line in log)
    assert 0 < steps < len(log)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(
            "css.system.log.Log.write", kill_at("css.system.log.Log.write", steps)
        )  # the last of the second task
        css(*arguments("again", *replay))
    assert not (tmp_path / "again" / "task_1").exists()
    assert css(*arguments("again", *replay)).code == 0
    for task in (0, 1):
        first, second = (
            load_tensors(tmp_path / name / f"task_{task}" / "model.safetensors")[0] for name in ("whole", "again")
        )
        assert first.keys() == second.keys() and all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "plop+replay", "--options.memory", "0"], "--options.memory 0 must be at least 1"),
        (["--method", "plop+replay", "--options.batch", "1"], "--options.batch 1 must be at least 2"),
        (["--method", "ewc+replay", "--options.base.weight", "-1"], "--options.base.weight"),
        (["--method", "joint+replay"], "plop+replay"),
        (["--method", "a-gem+replay"], "by its losses alone"),
    ],
)
def test_bad_input_is_one_sentence(options, words, data, tmp_path):
    outcome = css(*run_arguments(data, tmp_path, "bad", *options, protocol="2-1"))
    assert outcome.code == 2 and words in outcome.complaint


def test_kept_images_are_told_within_another_wrapper():
    options = {"options": {"base": {"memory": 6}}}
    assert remarks({"config": options, "complete": True}) == " Up to 6 images of every task are kept."
    assert remarks({"config": {"options": {"base": {}}}, "complete": True}) == ""


def test_method_is_found_by_its_name():
    method = make_method("mib+replay")
    assert type(method) is Replay and type(method.base) is Mib
