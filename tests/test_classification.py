"""Classification streams, called as a user does, on the built-in shapes; the methods of Table 1."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_voc import Killed, css, kill_at
from torch import nn

import css as css_package
from css.kinds.choice import kind_of
from css.metrics import continual_accuracy
from css.model.classifier import Classifier
from css.system.tensors import load_tensors
from plop_baseline.mas import squared_norm
from tasks.datasets.shapes import render_single

SMALL = ["--classes", "1", "2", "3", "4", "--train.epochs", "1", "--train.batch", "16", "--train.workers", "0",
         "--train.precision", "fp32"]  # fmt: skip
S2MF = ["--train.later-epochs", "2", "--options.statistics.batches", "3", "--options.dream.count", "4",
        "--options.dream.steps", "3", "--options.fuse.steps", "3", "--options.projector", "tpnsp"]  # fmt: skip
OPTIONS = {
    "finetune": [], "joint": [], "ewc": [], "lwf": [], "frozen": [], "mas": [], "finetune+s2mf": S2MF,
    "lwf+s2mf": [*S2MF, "--options.projector", "all"],
    "a-gem": ["--options.memory", "20", "--options.batch", "8"],
    "gem": ["--options.memory", "20", "--options.batch", "8"],
    "nsp": ["--options.statistics.batches", "3"],
    "connector": ["--options.statistics.batches", "3", "--train.later-epochs", "2"],
}  # fmt: skip


def arguments(runs, name, method, *options):
    start = ["run", "shapes-cls", "2-split", "--runs", runs, "--name", name, "--method", method]
    return [*map(str, start), *SMALL, *map(str, options)]


@pytest.fixture(scope="module", autouse=True)
def rendered_once():
    """A picture depends on the arguments alone (test_shapes.py), so all runs may see the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.datasets.single_shapes.render_single", functools.cache(render_single))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")

    def finished(method):
        if not (folder / method).exists():
            options = list(OPTIONS[method])
            if method not in ("finetune", "joint"):
                options += ["--task0", finished("finetune")]
            outcome = css(*arguments(folder, method, method, *options))
            assert outcome.code == 0, outcome.err
        return folder / method

    return finished


def results(run):
    return json.loads((run / "results.json").read_text())


def model_of(run, task):
    tensors, _ = load_tensors(run / f"task_{task}" / "model.safetensors")
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


@pytest.mark.parametrize("method", OPTIONS)
def test_every_method_learns_the_stream(method, runs):
    found = results(runs(method))
    matrix = found["accuracy_matrix"]
    if method == "joint":
        assert [len(row) for row in matrix] == [2] and found["bwt"] is None
        assert found["acc"] == pytest.approx(sum(matrix[0]) / 2)
    else:
        assert [len(row) for row in matrix] == [1, 2]
        assert (found["acc"], found["bwt"]) == pytest.approx(continual_accuracy(matrix))
    assert found["class_order"] == [1, 2, 3, 4] and found["complete"]


def test_acc_and_bwt_of_the_reference():
    acc, bwt = continual_accuracy([[90], [85, 80], [86, 76, 70]])
    assert (acc, bwt) == (pytest.approx(77.333, abs=1e-3), pytest.approx(-4.0))


def test_frozen_features_forget_nothing_and_fine_tuning_changes_them(runs):
    frozen, tuned = (results(runs(method)) for method in ("frozen", "finetune"))
    assert frozen["bwt"] == 0
    before, kept, moved = model_of(runs("finetune"), 0), model_of(runs("frozen"), 1), model_of(runs("finetune"), 1)
    assert torch.equal(kept["encoder.stem.weight"], before["encoder.stem.weight"])
    assert not torch.equal(moved["encoder.stem.weight"], before["encoder.stem.weight"])
    assert torch.equal(moved["classifiers.0.weight"], before["classifiers.0.weight"])  # old heads are frozen
    assert tuned["tasks"][0]["accuracy"] == frozen["tasks"][0]["accuracy"]  # one first task


def test_report_evaluate_and_what_draws_masks(runs):
    run = runs("finetune+s2mf")
    assert "ACC" in css("report", run).out
    shown = css("evaluate", run, "--task", "1").out
    for value in results(run)["tasks"][1]["accuracy"]:
        assert f"{100 * value:.2f}" in shown
    photo = run.parent / "photo.png"
    Image.new("RGB", (40, 40)).save(photo)
    masks = (["predict", run, photo], ["export", run], ["analyse", run], ["evaluate", run, "--geometry", "whole"])
    for command in masks:
        outcome = css(*command)
        assert outcome.code == 2 and "image labels" in outcome.complaint
    assert (run / "task_1" / "dreams-old.png").exists()


def test_memory_is_told_in_the_table(runs):
    assert "Up to 20 images of every task are kept" in css("report", runs("a-gem")).out
    assert "are kept" not in css("report", runs("ewc")).out


def test_killed_run_goes_on_with_the_same_numbers(runs, tmp_path, monkeypatch):
    """Adam's state, the memory and the random numbers come back."""
    again = arguments(tmp_path, "a-gem", "a-gem", *OPTIONS["a-gem"], "--train.later-epochs", "2")
    expected = arguments(tmp_path, "whole", "a-gem", *OPTIONS["a-gem"], "--train.later-epochs", "2")
    assert css(*expected, "--task0", runs("finetune")).code == 0

    for moment, calls in (
        ("css.run.flow.evaluate", 1),
        ("css.system.log.Log.write", 20),
    ):  # the end of task 0; epoch 1 of task 1
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(moment, kill_at(moment, calls))
            css(*again)
    assert css(*again).code == 0
    for task in (0, 1):
        first, second = model_of(tmp_path / "whole", task), model_of(tmp_path / "a-gem", task)
        assert all(torch.equal(second[name], value) for name, value in first.items())


def test_table_of_methods_has_accuracies(tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "dataset: shapes-cls\nprotocols: [2-split]\nmethods: [finetune, joint]\nseeds: [0]\n"
        "published: {paper: {rows: {finetune: {2-split: [51.5, -40]}}}}\n"
        "settings: {classes: ['1', '2', '3', '4'], train: {epochs: 1, batch: 16, workers: 0, precision: fp32}}\n"
    )
    outcome = css("table", recipe, "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.err
    assert "51.50 / -40.00" in outcome.out and "ACC" in outcome.out and "BWT" in outcome.out
    folder = tmp_path / "runs" / "small"
    for name in ("table.md", "table.csv", "table.tex", "table-tasks.md", "table-classes.md", "curves-2-split.png"):
        assert (folder / name).stat().st_size > 50
    text = recipe.read_text().replace("[51.5, -40]", "[1, 2, 3]")
    recipe.write_text(text)
    outcome = css("table", recipe, "--runs", tmp_path / "runs")
    assert outcome.code == 2 and "must hold ACC, BWT" in outcome.complaint


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("plop", [], "needs label maps"),
        ("mib+s2mf", [], "needs label maps"),
        ("gd-wild", [], "--options.images"),
        ("gd-wild", ["--options.images", "no-such-folder"], "no-such-folder holds no image"),
        ("a-gem", ["--options.memory", "0"], "--options.memory 0 must be at least 1"),
        ("gem", ["--options.batch", "0"], "--options.batch"),
        ("mas", ["--options.weight", "-1"], "--options.weight"),
        ("connector", ["--options.fast-share", "0"], "--options.fast-share 0"),
        ("finetune", ["--model.encoder", "resnet18"], "preact18"),
        ("finetune", ["--evaluation", "whole"], "--evaluation whole"),
        ("finetune", ["--train.halve-at", "1.5"], "--train.halve-at"),
        ("finetune", ["--train.classifier-lr", "-1"], "--train.classifier-lr"),
    ],
)
def test_bad_input_is_one_sentence(method, options, words, tmp_path):
    outcome = css(*arguments(tmp_path, "bad", method, *options))
    assert outcome.code == 2 and words in outcome.complaint


@pytest.mark.parametrize("method", ["nsp", "connector"])
def test_options_of_the_slow_model_without_those_of_dreams_and_fusion(method):
    text = css("run", "shapes-cls", "2-split", "--method", method, "--help").out
    assert "--options.rule.kind" in text and "--options.dream" not in text and "--options.fuse" not in text


@pytest.mark.parametrize("protocol", ["3-split", "2-2", "split"])
def test_protocol_that_does_not_divide(protocol, tmp_path):
    outcome = css("run", "shapes-cls", protocol, "--method", "finetune", "--runs", tmp_path, *SMALL)
    assert outcome.code == 2 and "2-split" in outcome.complaint


def test_gd_wild_distils_on_the_images_of_a_folder(runs, tmp_path):

    (tmp_path / "wild" / "deep").mkdir(parents=True)
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "wild" / "deep" / f"{number}.png")
    options = ["--options.images", tmp_path / "wild", "--options.batch", "4", "--task0", runs("finetune")]
    outcome = css(*arguments(tmp_path, "wild-run", "gd-wild", *options))
    assert outcome.code == 0, outcome.err
    assert {"ce", "kd", "wild"} <= results(tmp_path / "wild-run")["tasks"][1]["history"][0].keys()


def test_only_one_place_asks_for_the_kind():
    """The registry of the data sets says it; three choices follow it, and nobody else compares names or classes."""
    image_labels = ("cifar100", "tiny-imagenet", "shapes-cls")
    assert all(type(kind_of(name)).__name__ == "Classification" for name in image_labels)
    assert type(kind_of("voc")).__name__ == type(kind_of("shapes")).__name__ == "Segmentation"
    asking = re.compile(
        "|".join([r"labels_of\(", r"label_kind", r"isinstance\([^)]*, Classifier", r"dataset (==|!=|in \()"])
    )
    files = [path for path in Path(css_package.__file__).parent.rglob("*.py") if path.name != "choice.py"]
    assert len(files) > 30 and not [path.name for path in files if asking.search(path.read_text())]


def test_answers_stay_within_the_head_of_the_image():
    model = Classifier("preact18-8", [[1, 2], [3, 4]], (0.5,) * 3, (0.5,) * 3)
    model.grow([1, 2])
    model.grow([3, 4])
    logits = torch.tensor([[0.1, 0.2, 9.0, 8.0], [9.0, 8.0, 0.2, 0.1]])[..., None, None]
    answers = kind_of("cifar100").answers(model, logits, torch.tensor([0, 3])[:, None, None])
    assert answers.flatten().tolist() == [1, 2]  # the largest of all would be 2 and 0


def test_queries_show_every_class_about_equally_often():
    queries = kind_of("cifar100").queries(10, 32, range(2, 6), seed=1, layouts=None)
    assert queries.shape == (10, 1, 1) and queries.dtype == torch.uint8
    counts = queries.flatten().bincount(minlength=6).tolist()
    assert counts[:2] == [0, 0] and sorted(counts[2:]) == [2, 2, 3, 3]
    few = {tuple(kind_of("cifar100").queries(2, 32, range(9), s, None).flatten().tolist()) for s in range(8)}
    assert len({c for pair in few for c in pair}) > 4  # not always the first ones


def test_mas_importance_against_finite_differences():
    torch.manual_seed(0)
    layer, x, labels = nn.Linear(3, 4), torch.randn(5, 3), torch.zeros(5, 1, 1)

    def norm():
        return squared_norm(layer(x)[..., None, None], labels)

    (gradient,) = torch.autograd.grad(norm(), [layer.weight])
    step = 2e-2
    with torch.no_grad():
        layer.weight[1, 2] += step
        above = norm()
        layer.weight[1, 2] -= 2 * step
        below = norm()
    assert gradient[1, 2].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-2)


def test_nsp_holds_the_running_statistics(runs):
    first, second = (model_of(runs("nsp"), task) for task in (0, 1))
    running = [name for name in first if "running_" in name]
    assert running and all(torch.equal(first[name], second[name]) for name in running)
    assert any(not torch.equal(first[name], second[name]) for name in first.keys() - {*running})


def test_nsp_leaves_old_answers_as_they_were_and_plain_steps_do_not():
    """With frozen BatchNorm, in double precision, whatever the number of steps (Adam-NSCL, Eq. 3)."""
    from css.nullspace import GradientStatistics, Rule, for_parameters, project_updates, projector

    torch.manual_seed(0)
    old, new = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    drift = {}
    for method in ("nsp", "plain"):
        torch.manual_seed(1)
        model = Classifier("preact18-8", [[1, 2], [3, 4]], (0.5,) * 3, (0.5,) * 3).double()
        model.grow([1, 2])
        model.eval()
        before = model(old).logits.detach()
        statistics = GradientStatistics(exact_up_to=10_000)
        statistics.collect_features(model, [(old, torch.zeros(4, 1, 1))])
        model.grow([3, 4])
        norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
        for parameter in norms:
            parameter.requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
        if method == "nsp":
            projectors = projector(statistics, Rule("relative", 1e-12))
            project_updates(optimizer, for_parameters(model, projectors))
        for _ in range(5):
            optimizer.zero_grad()
            model(new).logits[:, 2:].square().mean().backward()
            optimizer.step()
        drift[method] = (model(old).logits[:, :2] - before).abs().max().item()
    assert drift["nsp"] < 1e-9 < 1e-3 < drift["plain"]
