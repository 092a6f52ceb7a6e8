"""STAR, DKD, BARM, SSUL, the analytic head, LGKD and EWF, called as a user does, on a stream of three tasks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_voc import Killed, css, kill_at, masks_of, read_results, run_arguments

from css.run.saved import config_of, load_model
from css.system.processes import Processes
from css.system.tensors import load_tensors
from plop_baseline.analytic import RidgeHead
from plop_baseline.dkd import Dkd

ROOT = Path(__file__).parents[1]
TERMS = {
    "star": {"bce", "distance", "contrast"},
    "dkd": {"bce", "kd", "parts", "auxiliary"},
    "lgkd": {"ce", "pod", "lgkd"},
    "mib+lgkd": {"ce", "kd", "lgkd"},
    "plop+ewf": {"ce", "pod"},
    "barm": {"bce", "background", "new", "bodies", "heads"},
    "ssul": {"bce"},
    "ssul maps": {"bce"},
}
SMALL = {"analytic": ["--options.features", "64"]}


def options_of(name):
    return ["--method", name.split()[0], *SMALL.get(name, [])]


@pytest.fixture(scope="module", autouse=True)
def maps(data, tmp_path_factory):
    """Saliency maps, what is labelled and a corner, with which "ssul maps" learns."""
    folder = tmp_path_factory.mktemp("maps")
    for index, mask in enumerate(masks_of(data, "train")):
        salient = mask > 0
        salient[:30, :30] = True
        Image.fromarray(salient).save(folder / f"train_{index:03d}.png")
    SMALL["ssul maps"] = ["--options.unknown", folder]
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Finished runs, each made once; all take the first task of fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")

    def finished(name, *more):
        home = folder / "_".join([name, *more])
        if not home.exists():
            task0 = [] if name == "finetune" else ["--task0", finished("finetune")]
            outcome = css(*run_arguments(data, folder, home.name, *options_of(name), *task0, *more))
            assert outcome.code == 0, outcome.err
        return home

    return finished


def tensors_of(run, task):
    return load_tensors(run / f"task_{task}" / "model.safetensors")[0]


def model_of(run, task):
    return {name: value for name, value in tensors_of(run, task).items() if name.startswith("model.")}


@pytest.mark.parametrize("name", TERMS)
def test_stream(name, runs):
    results = read_results(runs(name))
    assert results["complete"] and len(results["tasks"]) == 3
    for task in results["tasks"][1:]:
        epochs = [epoch for epoch in task["history"] if epoch["stage"] == "fit"]
        assert epochs[0].keys() - {"stage", "epoch", "seconds"} == TERMS[name]
    first, shared = model_of(runs(name), 0), model_of(runs("finetune"), 0)
    assert all(torch.equal(first[entry], value) for entry, value in shared.items())


KILLED = ["star", "dkd", "analytic", "plop+ewf", "lgkd", "barm", "ssul", "ssul maps", "plop+ewf+align"]
STEPS = {"dkd": 12, "ssul maps": 12}  # until a kill falls into the second epoch of a later task


@pytest.mark.parametrize("name", KILLED)
@pytest.mark.parametrize("place", ["first", "second"])
def test_killed(name, place, runs, data, tmp_path, monkeypatch):
    """While the first task of the method's own is finished, and in the last task: the same bits."""
    options = [*options_of(name), "--task0", runs("finetune")]
    again = run_arguments(data, tmp_path, "again", *options)
    function, calls = ("css.run.flow.evaluate", 1) if place == "first" else ("css.run.flow.evaluate", 3)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(function, kill_at(function, calls))
        css(*again)
    assert css(*again).code == 0
    for task in range(3):
        expected, found = tensors_of(runs(name), task), tensors_of(tmp_path / "again", task)
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[entry], value) for entry, value in expected.items())


@pytest.mark.parametrize(
    "name",
    ["star", "dkd", *(pytest.param(name, marks=pytest.mark.slow) for name in KILLED[3:])],
)
def test_killed_within_an_epoch(name, runs, data, tmp_path, monkeypatch):
    """Drawn features come from the seed of the epoch."""
    options = [*options_of(name), "--task0", runs("finetune"), "--train.later-epochs", "2"]
    arguments = [run_arguments(data, tmp_path, folder, *options) for folder in ("whole", "again")]
    assert css(*arguments[0]).code == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("css.system.log.Log.write", kill_at("css.system.log.Log.write", STEPS.get(name, 8)))
        css(*arguments[1])
    assert css(*arguments[1]).code == 0
    expected, found = (tensors_of(tmp_path / folder, 2) for folder in ("whole", "again"))
    assert all(torch.equal(found[entry], value) for entry, value in expected.items())


@pytest.mark.parametrize("name", ["star", "dkd"])
def test_batch_norm_and_the_background_stay(name, runs):
    """The background's row is zero for ever, and BatchNorm that of the first task, weight and bias included."""
    first, last = model_of(runs(name), 0), model_of(runs(name), 2)
    for part in ("weight", "bias"):
        assert not last[f"model.classifiers.0.{part}"][0].any()
    norms = [entry for entry in first if f"{entry.rpartition('.')[0]}.running_mean" in first]
    assert len(norms) > 20 and all(torch.equal(first[entry], last[entry]) for entry in norms)
    convolutions = [entry for entry in first if first[entry].dim() == 4]
    assert any(not torch.equal(first[entry], last[entry]) for entry in convolutions if "encoder" in entry)


def test_without_rates_batch_norm_and_extra_terms_star_is_fine_tuning_with_bce(runs, data, tmp_path):
    off = ["--options.no-draw", "--options.distance-weight", "0", "--options.contrast-weight", "0",
           "--train.later-rates.encoder", "1", "--train.later-rates.new-classifier", "1"]  # fmt: skip
    plain = run_arguments(data, tmp_path, "plain", "--method", "rival_baselines:BceFinetune",
                          "--train.later-batch-norm", "freeze", "--task0", runs("finetune"))  # fmt: skip
    assert css(*plain).code == 0
    found, expected = model_of(runs("star", *off), 2), model_of(tmp_path / "plain", 2)
    assert expected.keys() == found.keys()
    start, usual = model_of(runs("finetune"), 0), model_of(runs("star"), 2)
    moved = [entry for entry, value in start.items() if not torch.equal(value, expected[entry])]
    assert len(moved) > 20
    for entry in moved:
        far = (expected[entry] - start[entry]).abs().max().item()
        torch.testing.assert_close(found[entry], expected[entry], rtol=0, atol=1e-3 * far)
    assert any((usual[entry] - expected[entry]).abs().max() > 1e-2 * expected[entry].abs().max() for entry in moved)


def test_the_old_rows_of_star_move_by_weight_decay_alone(runs):
    before, after = (model_of(runs("star"), task)["model.classifiers.1.weight"].double() for task in (1, 2))
    shrunk = (before * after).sum() / before.square().sum()
    assert 0.9999 < shrunk < 1
    torch.testing.assert_close(after, shrunk * before, rtol=1e-6, atol=1e-8)
    held = runs("star", "--train.later-rates.old-classifiers", "0")
    assert torch.equal(*(model_of(held, task)["model.classifiers.1.weight"] for task in (1, 2)))


def test_ends_of_ewf(runs):
    """With coefficient 1 it is the base; with 0 the old model, but for the newest classifier."""
    base = model_of(runs("plop"), 2)
    assert all(torch.equal(base[entry], value) for entry, value in
               model_of(runs("plop+ewf", "--options.factor", "1"), 2).items())  # fmt: skip
    none = runs("plop+ewf", "--options.factor", "0")
    old, new = model_of(none, 1), model_of(none, 2)
    newest = {"model.classifiers.2.weight", "model.classifiers.2.bias"}
    assert new.keys() - old.keys() == newest
    for entry, value in old.items():
        assert torch.equal(new[entry], value) or entry.endswith("num_batches_tracked")
    assert not torch.equal(
        model_of(runs("plop+ewf"), 2)["model.decoder.conv.weight"], base["model.decoder.conv.weight"]
    )


def test_new_rows_of_dkd_start_from_the_auxiliary_row(runs, monkeypatch, data, tmp_path):
    seen = {}

    def keep(self, task, forward, teacher, images, labels):
        seen.setdefault(task.index, (self.model.classifiers[-1].weight.detach().clone(),
                                     self.model.head.auxiliary.weight.detach().clone()))  # fmt: skip
        return original(self, task, forward, teacher, images, labels)

    original = Dkd.losses
    monkeypatch.setattr(Dkd, "losses", keep)
    assert css(*run_arguments(data, tmp_path, "dkd", "--method", "dkd", "--task0", runs("finetune"))).code == 0
    for new, auxiliary in seen.values():
        assert torch.equal(new, auxiliary.expand_as(new))
    assert not torch.equal(seen[1][1], seen[2][1])  # the auxiliary row goes on learning


def test_analytic_trains_nothing_after_the_first_task(runs):
    first, last = model_of(runs("analytic"), 0), model_of(runs("analytic"), 2)
    kept = [entry for entry in first if ".encoder." in entry or ".decoder." in entry]
    assert len(kept) > 50 and all(torch.equal(first[entry], last[entry]) for entry in kept)
    assert last["model.head.weight"].shape == (4, 64) and last["model.head.weight"][3].any()
    assert tensors_of(runs("analytic"), 2)["method.square"].shape == (64, 64)
    assert all(not task["history"] for task in read_results(runs("analytic"))["tasks"][1:])


def test_analytic_uses_the_solution_of_its_sums(runs):
    kept = tensors_of(runs("analytic"), 2)
    square, cross = kept["method.square"], kept["method.cross"]
    expected = torch.linalg.solve(square + torch.eye(len(square), dtype=square.dtype), cross)
    torch.testing.assert_close(kept["model.head.weight"].double(), expected.T, rtol=1e-4, atol=1e-5)


def test_pseudo_labels_of_analytic(runs, data, tmp_path, monkeypatch):
    """A model that is sure of the first class everywhere: no background is counted any more, the features are."""
    monkeypatch.setattr(RidgeHead, "answers", lambda _, maps: torch.tensor([0.0, 5.0, 0, 0]).expand(
        len(maps), *maps.shape[-2:], 4).movedim(-1, 1))  # fmt: skip
    assert css(*run_arguments(data, tmp_path, "sure", *options_of("analytic"), "--task0", runs("finetune"))).code == 0
    first, last = (tensors_of(tmp_path / "sure", task) for task in (0, 2))
    assert torch.equal(first["method.cross"][:, 0], last["method.cross"][:, 0])
    usual = tensors_of(runs("analytic"), 2)
    assert torch.equal(usual["method.square"], last["method.square"])
    assert (usual["method.cross"][:, 0] > last["method.cross"][:, 0]).any()


@pytest.mark.parametrize("name", ["star", "dkd", "barm", "ssul", "ssul maps"])
def test_first_task_of_their_own(name, runs, data, tmp_path):
    """Binary cross-entropy from the start; such a first task is shared with nobody who does not ask for it."""
    own = run_arguments(data, tmp_path, "own", *options_of(name), "--options.first", "bce")
    assert css(*own).code == 0
    for task in (0, 2):
        background = model_of(tmp_path / "own", task)["model.classifiers.0.weight"][0]
        assert background.any() == (name in ("barm", "ssul"))  # which have a row for it
    wrong = css(*run_arguments(data, tmp_path, "other", "--method", "plop", "--task0", tmp_path / "own"))
    assert wrong.code == 2 and "binary cross-entropy" in wrong.complaint and not (tmp_path / "other").exists()
    wrong = css(*run_arguments(data, tmp_path, "other", *options_of(name), "--options.first", "bce",
                               "--task0", runs("finetune")))  # fmt: skip
    assert wrong.code == 2 and "binary cross-entropy" in wrong.complaint
    right = run_arguments(data, tmp_path, "right", *options_of(name), "--options.first", "bce",
                          "--task0", tmp_path / "own")  # fmt: skip
    assert css(*right).code == 0
    found, expected = model_of(tmp_path / "right", 2), model_of(tmp_path / "own", 2)
    assert all(torch.equal(found[entry], value) for entry, value in expected.items())


def test_a_first_task_may_come_from_a_method_with_a_head_of_its_own(runs, data, tmp_path):
    for source in ("dkd", "analytic"):
        arguments = run_arguments(data, tmp_path, source, "--method", "finetune", "--task0", runs(source))
        assert css(*arguments).code == 0
        found, expected = model_of(tmp_path / source, 2), model_of(runs("finetune"), 2)
        assert all(torch.equal(found[entry], value) for entry, value in expected.items())


def test_ssul_trains_the_newest_head_alone(runs):
    before, after = model_of(runs("ssul"), 1), model_of(runs("ssul"), 2)
    new = {entry for entry in after if entry not in before}
    assert {entry.rpartition(".")[0] for entry in new} == {
        "model.classifiers.2", "model.head.bodies.1.0", "model.head.bodies.1.1",
    }  # fmt: skip
    assert all(torch.equal(after[entry], value) for entry, value in before.items())
    first = model_of(runs("ssul"), 0)
    assert torch.equal(after["model.head.bodies.1.1.running_mean"], first["model.decoder.bn.running_mean"])
    assert not torch.equal(after["model.head.bodies.1.0.weight"], first["model.decoder.conv.weight"])


def test_with_maps_unknown_and_background_learn_too(runs):
    """Their convolutions alone, the background's far more slowly; a new head starts as the unknown one."""
    before, after = model_of(runs("ssul maps"), 1), model_of(runs("ssul maps"), 2)
    far = {name: (after[name] - value).abs().max() for name, value in before.items() if value.is_floating_point()}
    moved = {name for name, distance in far.items() if distance}
    parts = ("0.weight", "3.weight", "3.bias")
    assert moved == {f"model.head.{head}.{part}" for head in ("unknown", "background") for part in parts}
    assert far["model.head.background.0.weight"] < 1e-2 * far["model.head.unknown.0.weight"]
    for part in ("running_mean", "running_var", "weight", "bias"):
        assert torch.equal(after[f"model.head.bodies.1.1.{part}"], after[f"model.head.unknown.1.{part}"])
    assert not torch.equal(model_of(runs("ssul"), 2)["model.head.bodies.1.0.weight"],
                           after["model.head.bodies.1.0.weight"])  # fmt: skip


def test_maps_decide_what_ssul_learns(runs, maps, data, tmp_path):
    """Nothing is salient: other weights, but the same answers of the first task's classes."""
    for path in maps.iterdir():
        (tmp_path / "black").mkdir(exist_ok=True)
        Image.new("L", Image.open(path).size).save(tmp_path / "black" / path.name)
    arguments = ["--method", "ssul", "--options.unknown", tmp_path / "black", "--task0", runs("finetune")]
    assert css(*run_arguments(data, tmp_path, "run", *arguments)).code == 0
    found, usual = model_of(tmp_path / "run", 2), model_of(runs("ssul maps"), 2)
    assert not torch.equal(found["model.head.unknown.3.weight"], usual["model.head.unknown.3.weight"])
    assert torch.equal(found["model.classifiers.0.weight"], usual["model.classifiers.0.weight"])


def test_old_answers_of_ssul_stay(runs):
    """What an old head says of an image does not change, but for the background's row that is subtracted once."""
    logits = []
    for task in (1, 2):
        model = load_model(runs("ssul"), config_of(runs("ssul")), task, Processes()).eval()
        with torch.no_grad():
            logits.append(model(torch.ones(1, 3, 64, 64)).logits)
    assert torch.equal(logits[0], logits[1][:, : logits[0].shape[1]])


def test_a_new_ear_of_barm_starts_as_the_first_body(runs, data):
    """It moves from there; in the released code without the running statistics."""
    first, last = model_of(runs("barm"), 0), model_of(runs("barm"), 1)
    released = model_of(runs("barm", "--options.released"), 1)
    for part in ("running_mean", "running_var", "weight", "bias"):
        entry = f"model.head.bodies.0.1.{part}"
        assert torch.equal(last[entry], first[f"model.decoder.bn.{part}"])
        assert torch.equal(released[entry], last[entry]) == (part in ("weight", "bias"))
    start, end = first["model.decoder.conv.weight"], last["model.head.bodies.0.0.weight"]
    assert 0 < (end - start).abs().max() < 0.1 * start.abs().max()


@pytest.mark.parametrize("name", ["dkd", "analytic", "barm", "ssul", "ssul maps"])
def test_saved_heads_are_read_again(name, runs):
    run = runs(name)
    again = css("evaluate", run)
    assert again.code == 0
    assert f"{100 * read_results(run)['tasks'][-1]['groups']['all']:.2f}" in again.out


def test_released_code_is_another_method(runs):
    for name, entry in (("star", "method.noise"), ("star", "model.classifiers.2.weight"), ("analytic", "method.cross")):
        usual, released = runs(name), runs(name, "--options.released")
        assert not torch.equal(tensors_of(usual, 2)[entry], tensors_of(released, 2)[entry])


EVERY = ["star", "dkd", "analytic", "lgkd", "barm", "ssul", "ssul maps", "star+ewf"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_two_processes(name, runs, data, tmp_path):
    """The same images and the same losses: after one step of every later task nearly the same network."""
    arguments = run_arguments(data, tmp_path, "two", *options_of(name), "--task0", runs("finetune"))
    environment = {**os.environ, "GPUS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "css", *arguments]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    one, two = (model_of(run, 2)["model.decoder.conv.weight"] for run in (runs(name), tmp_path / "two"))
    assert (one - two).abs().max() < 0.05 * one.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_another_encoder(name, data, tmp_path):
    arguments = run_arguments(data, tmp_path, "lite", *options_of(name), "--model.encoder", "tu-tf_efficientnet_lite0")
    outcome = css(*arguments)
    assert outcome.code == 0, outcome.err
    assert read_results(tmp_path / "lite")["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name != "ssul maps"])
def test_shapes(name, tmp_path):
    small = ["--model.encoder", "tu-test_resnet", "--train.crop", "64", "--train.epochs", "1", "--train.workers", "0"]
    outcome = css("run", "shapes", "2-1", "--classes", 1, 2, 3, "--runs", tmp_path, "--name", "run", *small,
                  "--train.later-epochs", "1", *options_of(name))  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert read_results(tmp_path / "run")["complete"]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("joint+ewf", [], "+ewf goes around a method that learns task after task"),
        ("joint+lgkd", [], "+lgkd goes around plop or mib"),
        ("star+lgkd", [], "+lgkd goes around plop or mib"),
        ("ssul+s2mf", [], "+s2mf needs a base method that learns every task by its losses alone"),
        ("ssul+replay", [], "+replay needs a base method"),
        ("dkd+align+align", [], "+align goes around a method that does not align"),
        ("star+s2mf+ewf", [], "write plop+ewf+align"),
        ("ssul", ["--options.unknown", "nowhere"], "--options.unknown nowhere is no folder"),
        ("ssul+ewf", ["--options.base.unknown", "nowhere"], "--options.base.unknown nowhere is no folder"),
        ("ssul", ["--options.unknown", "."], "40 of 40 training images have no saliency map"),
        ("analytic+align", [], "+align trains classifiers that are linear"),
        ("barm+s2mf", [], "+s2mf trains classifiers that are linear"),
        ("ssul+align", [], "+align trains classifiers that are linear"),
        ("barm", ["--options.threshold", "2"], "--options.threshold 2"),
        ("ssul", ["--options.threshold", "-1"], "--options.threshold -1"),
        ("dkd+ewf", ["--model.classifier-features", "hypercolumn"], "--model.classifier-features hypercolumn"),
        ("analytic+s2mf", [], "+s2mf needs a base method that learns every task by its losses alone"),
        ("analytic+replay", [], "+replay needs a base method"),
        ("finetune+lgkd", [], "+lgkd goes around plop or mib"),
        ("plop+align+ewf", [], "write plop+ewf+align"),
        ("plop+ewf", ["--options.factor", "1.5"], "--options.factor 1.5 does not fit; give one from 0 to 1"),
        ("analytic", ["--options.features", "4000000"], "GiB for 4 square matrices, and this machine has"),
        ("analytic", ["--options.features", "0"], "--options.features 0"),
        ("analytic", ["--options.gamma", "0"], "--options.gamma 0"),
        ("star", ["--options.pos-weight", "-1"], "--options.pos-weight -1"),
        ("dkd", ["--options.kd-weight", "nan"], "--options.kd-weight nan"),
        ("lgkd", ["--options.weight", "-1"], "--options.weight -1"),
        ("star", ["--train.later-rates.encoder", "-1"], "--train.later-rates.encoder -1"),
    ],
)
def test_bad_input(method, options, words, data, tmp_path):
    outcome = css(*run_arguments(data, tmp_path, "bad", "--method", method, *options))
    assert outcome.code == 2 and words in outcome.complaint
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("dataset", ["shapes-cls"])
@pytest.mark.parametrize("method", ["star", "dkd", "analytic", "lgkd", "barm", "ssul"])
def test_image_labels_are_refused(dataset, method, tmp_path):
    outcome = css("run", dataset, "10-split", "--method", method, "--runs", tmp_path / "runs")
    assert outcome.code == 2 and method in outcome.complaint
