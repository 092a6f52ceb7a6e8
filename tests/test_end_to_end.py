"""Every command, from images on disk to tables, masks and pictures."""

import json
import shutil
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import yaml
from PIL import Image
from small_voc import (
    CLASSES,
    COUNTS,
    CROP,
    TINY,
    css,
    masks_of,
    picture_side,
    read_results,
    run_arguments,
    write_small_voc,
)

from css.report.pictures import SIDE
from css.report.text import percent
from tasks.datasets.voc import IMAGES, voc_palette
from tasks.palette import vivid_palette
from tasks.source import VOID

GROUPS = ("old", "old_no_bg", "new", "all", "all_no_bg", "harmonic")
RUNS = {
    "finetune": ("1-1", "--method", "finetune"),
    "plop": ("1-1", "--method", "plop"),
    "median": ("2-1", "--method", "plop", "--options.thresholds", "median", "--options.no-background-factor", "1"),
    "joint": ("1-1", "--method", "joint"),
    "whole": ("2-1", "--method", "finetune", "--evaluation", "whole"),
    "disjoint": ("2-1", "--method", "finetune", "--setting", "disjoint"),
    "sequential": ("2-1", "--method", "finetune", "--setting", "sequential"),
}
PICTURED = ("finetune", "plop")  # their pictures are looked at


pytestmark = pytest.mark.usefixtures("data")  # a plain machine for every test


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Folder of finished runs; each is made when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def finished(name: str):
        if not (folder / name).exists():
            protocol, *options = RUNS[name]
            with picture_side(SIDE if name in PICTURED else TINY):
                outcome = css(*run_arguments(data, folder, name, *options, protocol=protocol))
            assert outcome.code == 0, outcome.err
            assert (folder / name / "table.md").read_text() in outcome.out
        return folder / name

    return finished


def iou_of(confusion: np.ndarray) -> np.ndarray:
    """By its definition, one class after the other; NaN without ground truth."""
    scores = []
    for k in range(len(confusion)):
        hits, truth = confusion[k, k], confusion[k].sum()
        scores.append(hits / (truth + confusion[:, k].sum() - hits + 1e-6) if truth else np.nan)
    return np.array(scores)


def groups_of(iou: np.ndarray, num_first: int) -> dict[str, float | None]:
    def mean(scores):
        return float(np.nanmean(scores)) if len(scores) else None

    old, new = mean(iou[:num_first]), mean(iou[num_first:])
    harmonic = None if new is None else (2 * old * new / (old + new) if old + new else 0.0)
    return {"old": old, "old_no_bg": mean(iou[1:num_first]), "new": new, "all": mean(iou),
            "all_no_bg": mean(iou[1:]), "harmonic": harmonic}  # fmt: skip


def holding(masks: list[np.ndarray], classes: list[int], without: Sequence[int] = ()) -> int:
    """How many masks hold one of the classes and none of the others."""
    return sum(bool(np.isin(m, classes).any() and not np.isin(m, list(without)).any()) for m in masks)


def task_lists(name: str) -> list[list[int]]:
    if name == "joint":
        return [[1, 2, 3]]
    return [[1], [2], [3]] if RUNS[name][0] == "1-1" else [[1, 2], [3]]


@pytest.mark.parametrize("name", RUNS)
def test_results(name, runs, data):
    results, tasks = read_results(runs(name)), task_lists(name)
    num_first = 1 + int(RUNS[name][0][0])
    setting = results["config"]["setting"]
    assert results["complete"] is True and results["class_order"] == [0, 1, 2, 3] and results["seed"] == 0
    assert [task["new_classes"] for task in results["tasks"]] == [[0, *tasks[0]], *tasks[1:]]
    for index, task in enumerate(results["tasks"]):
        seen, later = sum(tasks[: index + 1], []), sum(tasks[index + 1 :], [])
        excluded = later if setting != "overlap" else []
        assert task["train_images"] == holding(masks_of(data, "train"), tasks[index], excluded)
        assert task["test_images"] == holding(masks_of(data, "test"), seen)
        confusion = np.array(task["confusion"])
        assert confusion.shape == (1 + len(seen),) * 2 and confusion.sum() > 0
        iou = iou_of(confusion)
        np.testing.assert_allclose(np.array(task["iou"], float), iou, rtol=1e-12)
        expected = groups_of(iou, num_first)
        assert task["groups"].keys() == expected.keys()
        for group, value in expected.items():
            assert task["groups"][group] == (None if value is None else pytest.approx(value, rel=1e-12))
        assert task["groups"]["old"] != pytest.approx(groups_of(iou, num_first - 1)["old"])  # another count is noticed
        assert [epoch["epoch"] for epoch in task["history"]] == [0]
        assert set(task["history"][0]) == {"stage", "epoch", "seconds", "ce"} | (
            {"pod"} if index and name in ("plop", "median") else set()
        )
        assert task["seconds"]["train"] > 0 and task["peak_memory_mb"] > 0
    assert results["avg"] == pytest.approx(np.mean([task["groups"]["all"] for task in results["tasks"]]))


def test_settings_differ(runs):
    """The counts above would notice a setting that was not applied."""
    overlap, disjoint = (read_results(runs(name))["tasks"][0]["train_images"] for name in ("whole", "disjoint"))
    assert disjoint < overlap


def test_whole_images_are_tested_to_the_last_pixel(runs, data):
    tested = [mask for mask in masks_of(data, "test") if np.isin(mask, [1, 2, 3]).any()]
    confusion = np.array(read_results(runs("whole"))["tasks"][-1]["confusion"])
    assert confusion.sum(1).tolist() == [sum(int((mask == k).sum()) for mask in tested) for k in range(CLASSES + 1)]
    crops = np.array(read_results(runs("disjoint"))["tasks"][-1]["confusion"])
    assert crops.sum() <= len(tested) * CROP**2 and crops.sum() != confusion.sum()


def test_thresholds_are_kept_no_longer_than_needed(runs):
    files = {path.name for path in runs("plop").rglob("*") if path.is_file()}
    examples = {name for name in files if name.startswith("example_")}
    assert files - examples == {"config.yaml", "log.jsonl", "results.json", "table.md", "report.html", "result.json",
                                "model.safetensors", "predictions.safetensors", "pictures.png"}  # fmt: skip


def test_pictures_grow_by_one_column_per_task(runs):
    for task in range(3):
        picture = np.array(Image.open(runs("finetune") / f"task_{task}" / "pictures.png"))
        height, width, channels = picture.shape
        assert channels == 3 and width == SIDE * (3 + task) and SIDE == 256
        rows, rest = divmod(height, SIDE)
        assert 3 <= rows <= 8 and 0 < rest < 100, "a line of titles above, a legend below"
        truth = picture[:, SIDE : 2 * SIDE]
        assert all((truth == vivid_palette()[k]).all(-1).any() for k in (1, 2, 3)), "contours"


def test_examples_say_what_they_show(runs):
    task = read_results(runs("plop"))["tasks"][-1]
    assert [picture["why"] for picture in task["pictures"]][:3] == ["best", "median", "worst"]
    scores = [picture["iou"] for picture in task["pictures"][:3]]
    assert scores == sorted(scores, reverse=True)
    for picture in task["pictures"]:
        with Image.open(runs("plop") / "task_2" / picture["file"]) as image:
            assert image.width == 3 * SIDE and image.height > SIDE + picture["head"]


def printed_groups(text: str) -> dict[str, str]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return dict(cells[1:])


@pytest.mark.parametrize("name", ["finetune", "median", "joint", "whole"])
def test_evaluate_prints_the_numbers_of_the_run(name, runs, data):
    tasks = read_results(runs(name))["tasks"]
    for task in tasks:
        outcome = css("evaluate", runs(name), "--task", task["index"])
        assert outcome.code == 0, outcome.err
        assert printed_groups(outcome.out) == {group: percent(task["groups"][group]) for group in GROUPS}
    last = css("evaluate", runs(name), "--data-root", data)
    assert printed_groups(last.out) == printed_groups(outcome.out)
    other = css("evaluate", runs(name), "--geometry", "crop" if name == "whole" else "whole")
    assert other.code == 0 and printed_groups(other.out) != printed_groups(last.out)


def test_evaluate_of_a_moved_run(runs, tmp_path):
    shutil.copytree(runs("finetune"), tmp_path / "elsewhere")
    moved, stayed = css("evaluate", tmp_path / "elsewhere"), css("evaluate", runs("finetune"))
    assert moved.code == 0 and printed_groups(moved.out) == printed_groups(stayed.out)


def test_report_needs_results_json_alone(runs, tmp_path):
    for name in ("finetune", "joint"):
        (tmp_path / name).mkdir()
        shutil.copy(runs(name) / "results.json", tmp_path / name)
    outcome = css("report", tmp_path / "finetune", tmp_path / "joint")
    tables = [(runs(name) / "table.md").read_text() for name in ("finetune", "joint")]
    assert outcome.code == 0 and outcome.out == "\n".join(tables) + "\n"
    assert "| 2: bird" in tables[0] and "not finished" not in tables[0]
    results = read_results(runs("finetune"))
    unfinished = {**results, "complete": False, "tasks": results["tasks"][:1]}
    (tmp_path / "finetune" / "results.json").write_text(json.dumps(unfinished))
    assert "not finished" in css("report", tmp_path / "finetune").out


def test_predict_writes_raw_class_ids(runs, data, tmp_path):
    run = runs("finetune")
    big = tmp_path / "big.png"
    Image.open(data / IMAGES / "test_000.jpg").resize((131, 77)).convert("L").save(big)
    images = [data / IMAGES / "test_001.jpg", big]
    outcome = css("predict", run, *images, "--out", tmp_path / "out")
    assert outcome.code == 0 and "2 of 2 done: mask, overlay" in outcome.out
    for image in images:
        size = Image.open(image).size
        mask = Image.open(tmp_path / "out" / f"{image.stem}_mask.png")
        assert mask.mode == "P" and mask.size == size
        assert mask.getpalette()[3:6] == voc_palette()[1].tolist()
        assert set(np.unique(mask).tolist()) <= {0, 1, 2, 3}
        assert Image.open(tmp_path / "out" / f"{image.stem}_overlay.png").size == size


def test_predict_follows_the_class_order(data, tmp_path):
    """Channels are mapped back to raw ids: here channel 1 is class 3, and task 0 knows no other."""
    options = ["--method", "finetune", "--order", "bird", "bicycle", "aeroplane", "--train.epochs", "4"]
    assert css(*run_arguments(data, tmp_path, "order", *options, "--train.lr", "0.05")).code == 0
    results = read_results(tmp_path / "order")
    assert results["class_order"] == [0, 3, 2, 1]
    image = data / IMAGES / "test_001.jpg"
    for task, known in enumerate(({0, 3}, {0, 3, 2}, {0, 1, 2, 3})):
        assert css("predict", tmp_path / "order", image, "--task", task, "--out", tmp_path / f"{task}").code == 0
        found = set(np.unique(Image.open(tmp_path / f"{task}" / "test_001_mask.png")).tolist())
        assert found <= known
        stored = np.array(results["tasks"][task]["confusion"])
        assert stored.shape == (len(known), len(known))


@pytest.fixture
def recipe(tmp_path, data):
    """A YAML file in the smallest setting."""
    plan = {
        "title": "Small",
        "dataset": "voc",
        "protocols": ["2-1"],
        "methods": ["finetune", "plop", "joint"],
        "seeds": [1, 2],
        "settings": {
            "classes": [1, 2, 3],
            "model": {"encoder": "tu-test_resnet", "encoder_weights": "none"},
            "train": {"epochs": 1, "batch": 8, "crop": CROP, "workers": 0, "bn_group": None, "precision": "fp32"},
        },
        "options": {"plop": {"thresholds": "median"}},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def test_table(recipe, data, tmp_path):
    def table():
        return css("table", recipe, "--data-root", data, "--runs", tmp_path / "runs")

    first = table()
    assert first.code == 0, first.err
    lines = [line for line in first.out.splitlines() if line.startswith("| 2-1")]
    assert [line.split("|")[2].strip() for line in lines] == ["finetune", "plop", "joint"]
    assert all("±" in line for line in lines)
    folder = tmp_path / "runs" / "small"
    assert (folder / "table.md").read_text().strip() in first.out
    runs = {path.parent.name: read_results(path.parent) for path in folder.glob("*/results.json")}
    assert len(runs) == 6
    for seed in (1, 2):
        finetune, plop = (runs[f"voc-2-1-overlap-{method}-s{seed}"] for method in ("finetune", "plop"))
        assert plop["config"]["options"]["thresholds"] == "median"
        assert finetune["tasks"][0]["history"] and not plop["tasks"][0]["history"]  # learnt once, shared
        assert plop["tasks"][0]["confusion"] == finetune["tasks"][0]["confusion"]
        assert plop["tasks"][1]["confusion"] != finetune["tasks"][1]["confusion"]
    alls = [runs[f"voc-2-1-overlap-joint-s{seed}"]["tasks"][-1]["groups"]["all"] for seed in (1, 2)]
    assert f"{100 * np.mean(alls):.2f} ± {100 * np.std(alls, ddof=1):.2f}" in lines[2]
    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = table()
    assert again.code == 0 and "step" not in again.err  # no bar of training
    assert again.out.splitlines()[-len(first.out.splitlines()[-5:]) :] == first.out.splitlines()[-5:]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == written


def test_task0_is_taken_over(runs, data, tmp_path):
    options = ["--method", "plop", "--task0", runs("finetune")]
    assert css(*run_arguments(data, tmp_path, "shared", *options)).code == 0
    shared, own = read_results(tmp_path / "shared"), read_results(runs("plop"))
    assert shared["tasks"][0]["history"] == []
    for mine, other in zip(shared["tasks"], own["tasks"], strict=True):
        assert mine["confusion"] == other["confusion"]  # as if it had learnt task 0 itself


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seed", "1"], "seed is 1 here and 0 there"),
        (["--model.encoder", "tu-test_resnet", "--train.epochs", "2"], "train.epochs is 2 here and 1 there"),
        (["--model.encoder", "resnet18"], "model.encoder is 'resnet18' here"),
        (["--classes", "2", "3"], "other images or classes"),
        (["--setting", "disjoint"], "other images or classes"),
        (["--void", "background"], "other images or classes"),
    ],
)
def test_task0_of_another_kind_is_refused(options, reason, runs, data, tmp_path):
    command = run_arguments(data, tmp_path, "new", "--method", "plop", "--task0", runs("finetune"), *options)
    outcome = css(*command)
    assert outcome.code == 2 and reason in outcome.complaint and "--task0" in outcome.complaint
    assert not (tmp_path / "new").exists()


def test_task0_with_other_data_is_refused(runs, tmp_path):
    other = write_small_voc(tmp_path / "other")
    image = next((other / IMAGES).glob("train_*"))
    image.write_bytes(image.read_bytes() + b"\0")
    outcome = css(*run_arguments(other, tmp_path, "new", "--method", "plop", "--task0", runs("finetune")))
    assert outcome.code == 2 and "other images" in outcome.complaint
    moved = css("evaluate", runs("finetune"), "--data-root", other)
    assert moved.code == 2 and "is not what" in moved.complaint


OWN_METHOD = '''
from dataclasses import dataclass

import torch

from css.losses import cross_entropy
from css.method import Method


@dataclass(frozen=True)
class Options:
    weight: float = 0.0
    """Weight of a term on the features."""


class Mine(Method):
    Options = Options

    def losses(self, task, forward, teacher, images, labels):
        new, old = forward(images), teacher(images)
        change = (new.features - old.features).square().mean()
        return {"ce": cross_entropy(new.logits, labels), "change": self.options.weight * change}

    def finish(self, task, model, trainer):
        self.seen = torch.tensor(task.seen_classes)

    def tensors(self):
        return {"seen": self.seen}

    def load_tensors(self, tensors):
        assert tensors["seen"].tolist() == self.seen.tolist()
'''


def test_a_method_of_the_users_own(data, tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(OWN_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--method", "my_methods:Mine", "--options.weight", "0.5"]
    outcome = css(*run_arguments(data, tmp_path / "runs", "mine", *options))
    sys.modules.pop("my_methods")
    assert outcome.code == 0, outcome.err
    tasks = read_results(tmp_path / "runs" / "mine")["tasks"]
    assert [sorted(task["history"][0].keys() - {"stage", "epoch", "seconds"}) for task in tasks] == [
        ["ce"], ["ce", "change"], ["ce", "change"],
    ]  # fmt: skip


def test_list_and_help():
    assert css("list").out.split("\n")[0] == (
        "Data sets: voc, shapes, ade20k, cityscapes, cifar100, tiny-imagenet, shapes-cls, or a folder with data.yaml "
        "(see css data)"
    )
    assert all(f"\n  {name}" in css("list").out for name in ("finetune", "joint", "plop"))
    assert "css COMMAND" in css().out and css("--help").code == 0
    for command in ("run", "table", "evaluate", "predict", "report", "prepare"):
        outcome = css(command, "--help")
        assert outcome.code == 0 and f"css {command}" in outcome.out


def test_the_small_data_are_what_the_tests_assume(data):
    for split, count in COUNTS.items():
        masks = masks_of(data, split)
        assert len(masks) == count and set(np.unique(np.concatenate([m.ravel() for m in masks]))) == {0, 1, 2, 3, VOID}
        assert all(0 < holding(masks, [k]) < count for k in (1, 2, 3))
        assert len({mask.shape for mask in masks}) > 2
