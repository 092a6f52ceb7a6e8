"""Split2MetaFusion around a base method, called as a user does; its parts have tests of their own."""

import json
import math
import pickle

import pytest
import torch
from small_voc import QUICK_S2MF, Killed, after_first_task, css, kill_at, read_results, run_arguments

from css.config.files import as_dict, merge, read_config
from css.method.contract import Method
from css.method.registry import default_options, make_method
from css.nullspace import GradientStatistics, projector
from css.nullspace.layers import rows_of
from css.run.presets import from_dict, preset
from css.s2mf.algorithm import MODELS_FILE, Split2MetaFusion
from css.system.tensors import load_tensors
from plop_baseline.plop import Plop
from plop_baseline.replay import Replay

META = ("plop+s2mf", ["--options.align"])  # with `old` one of the `fused_runs`
RUNS = {
    "linear": ("plop+s2mf", ["--options.fusion", "linear"]),
    "given": ("plop+s2mf", ["--options.fusion", "linear", "--options.alpha", "0.25", "--options.layouts", "free"]),
    "nsp": ("finetune+s2mf", ["--options.projector", "nsp", "--options.fusion", "none"]),
    "unprojected": ("mib+s2mf", ["--options.projector", "none", "--options.current-images", "4"]),
    "ewc": ("ewc+s2mf", ["--options.base.weight", "10"]),
}


@pytest.fixture(autouse=True, scope="module")
def few_updates():
    """EWC looks at two batches of a task, which is enough around it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plop_baseline.ewc.UPDATES", 2)
        yield


@pytest.fixture(scope="module")
def runs(data, fused_runs, tmp_path_factory):
    """Finished two-task runs from one first task."""
    folder = tmp_path_factory.mktemp("runs")

    def finished(name):
        if name not in RUNS:
            return fused_runs / name
        if not (folder / name).exists():
            method, options = RUNS[name]
            arguments = ["--method", method, *QUICK_S2MF, *options, "--task0", fused_runs / "meta"]
            outcome = css(*run_arguments(data, folder, name, *arguments, protocol="2-1"))
            assert outcome.code == 0, outcome.err
        return folder / name

    return finished


def model_of(run, task):
    tensors, _ = load_tensors(run / f"task_{task}" / "model.safetensors")
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def recorded(run, group):
    tensors, _ = load_tensors(run / "task_1" / MODELS_FILE)
    return {name.removeprefix(f"{group}."): t for name, t in tensors.items() if name.startswith(f"{group}.")}


def stages(run):
    return [(epoch["stage"], epoch["epoch"]) for epoch in read_results(run)["tasks"][1]["history"]]


def test_stages_share_the_epochs_of_the_task(runs):
    assert stages(runs("meta")) == [("slow", 0), ("fast", 0)]
    assert stages(runs("nsp")) == [("slow", 0), ("slow", 1)]  # without fusion there is no fast model
    assert {"ce", "pod"} < read_results(runs("meta"))["tasks"][1]["history"][1].keys()


def test_seconds_of_every_stage_are_told(runs):
    seconds = read_results(runs("meta"))["tasks"][1]["seconds"]
    assert {"slow", "fast", "thresholds", "dreams of old classes", "dreams of new classes", "fusion", "statistics"} < (
        seconds.keys()
    )
    assert seconds["train"] == pytest.approx(seconds["slow"] + seconds["fast"])


@pytest.mark.parametrize("name", ["meta", "unprojected", "ewc"])
def test_fused_model_is_the_gated_mean(name, runs):
    """The classifiers are so before they are aligned."""
    fused, slow, fast, gates = model_of(runs(name), 1), *(recorded(runs(name), g) for g in ("slow", "fast", "gate"))
    assert gates and all(((gate > 0) & (gate < 1)).all() for gate in gates.values())
    assert "classifiers.0" in gates and "classifiers.1" not in gates
    if name == "meta":
        assert not torch.equal(fused["classifiers.1.weight"], fast["classifiers.1.weight"])
        before = recorded(runs(name), "unaligned")
        fused |= {"classifiers.0.weight": before["weight"][:3, :, None, None], "classifiers.0.bias": before["bias"][:3]}
        fused |= {"classifiers.1.weight": before["weight"][3:, :, None, None], "classifiers.1.bias": before["bias"][3:]}
    for layer, gate in gates.items():
        a = gate.view(-1, *[1] * (fused[f"{layer}.weight"].dim() - 1))
        expected = a * slow[f"{layer}.weight"] + (1 - a) * fast[f"{layer}.weight"]
        torch.testing.assert_close(fused[f"{layer}.weight"], expected)
    for entry in ("weight", "bias"):  # the classifier of the new class is the fast model's
        assert torch.equal(fused[f"classifiers.1.{entry}"], fast[f"classifiers.1.{entry}"])
        assert not torch.equal(slow[f"classifiers.1.{entry}"], fast[f"classifiers.1.{entry}"])


def test_with_everything_protected_the_slow_model_is_the_old_one(runs):
    run = runs("old")
    old, slow, fast = model_of(run, 0), recorded(run, "slow"), recorded(run, "fast")
    assert stages(run) == [("fast", 0), ("fast", 1)]  # all epochs are the fast model's
    old["classifiers.0.bias"][0] -= math.log(2)  # the background has made room for the new class
    assert all(torch.equal(slow[name], value) for name, value in old.items())
    assert not any(torch.equal(fast[name], old[name]) for name in ("decoder.conv.weight", "classifiers.0.bias"))


def test_linear_fusion_has_one_coefficient(runs):
    fused, slow, fast = model_of(runs("given"), 1), recorded(runs("given"), "slow"), recorded(runs("given"), "fast")
    name = "decoder.conv.weight"
    torch.testing.assert_close(fused[name], 0.25 * slow[name] + 0.75 * fast[name])
    searched, _ = load_tensors(runs("linear") / "task_1" / MODELS_FILE)
    assert 0 <= searched["alpha"] <= 1


def test_total_update_of_the_slow_model_is_projected(runs):
    """(W_slow - W_old) lies in the free directions of the statistics that the first task left (Eq. 6, 7), but for the
    old classifier: what is background changes. W_old: with the background's bias as the new class has left it."""
    run = runs("meta")
    tensors, _ = load_tensors(run / "task_0" / "model.safetensors")
    prefix = "method.gradients."
    kept = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    options = from_dict(read_config(run), "test").options
    projectors = projector(GradientStatistics.from_tensors(kept), options.rule)
    old, slow, fast = model_of(run, 0), recorded(run, "slow"), recorded(run, "fast")
    old["classifiers.0.bias"][0] -= math.log(2)
    moved = []

    def update_of(model, name):
        bias = f"{name.removesuffix('weight')}bias"
        return rows_of(model[name] - old[name], model[bias] - old[bias] if bias in old else None)[0]

    for name, project in projectors.items():
        updates = [update_of(model, name) for model in (slow, fast)]
        outside = [(update - project(update)).norm() for update in updates]
        rounding = 1e-6 * old[name].norm()  # of weights, which are much larger than their update
        if name == "classifiers.0.weight":
            assert outside[0] > 0.01 * updates[0].norm()
            continue
        assert outside[0] <= 1e-4 * updates[0].norm() + rounding, name
        moved.append(float(outside[1] / updates[1].norm()))
    assert max(moved) > 0.01  # the fast model does leave the space


def test_statistics_grow_and_are_kept(runs):
    for task in (0, 1):
        tensors, _ = load_tensors(runs("meta") / f"task_{task}" / "model.safetensors")
        assert any(name.startswith("method.gradients.") for name in tensors)
        assert any(name.startswith("method.layouts.") for name in tensors)
        assert tensors["method.alignment.sums"].shape == (3 + task, 257 * 258 / 2)
    tensors, _ = load_tensors(runs("unprojected") / "task_1" / "model.safetensors")
    assert not any(name.startswith("method.gradients.") for name in tensors)


def test_dreams_and_their_pictures(runs):
    home = runs("meta") / "task_1"
    assert (home / "dreams-old.png").stat().st_size > 1000 and (home / "dreams-new.png").stat().st_size > 1000
    old, new = recorded(runs("meta"), "old"), recorded(runs("meta"), "new")
    assert old["images"].shape == (8, 3, 64, 64) and old["images"].isfinite().all()
    assert set(old["queries"].unique().tolist()) <= {0, 1, 2, 255}  # channels 1 and 2 are old, 3 is new
    assert set(new["queries"].unique().tolist()) <= {0, 3, 255} and (new["queries"] == 3).any()


MOMENTS = {
    "slow": ("css.system.log.Log.write", 6),
    "statistics of the first task": ("css.s2mf.slow._label_loss", 2),
}
# In the second task; the first is a copy of that of the run that was never killed.
LATER_MOMENTS = {
    "between slow and fast": ("css.s2mf.slow.project_total", 1),
    "fast": ("css.system.log.Log.write", 4),
    "dreams of old classes": ("css.s2mf.algorithm.Dreamer.dream", 1),
    "dreams of new classes": ("css.s2mf.algorithm.Dreamer.dream", 2),
    "fusion": ("css.s2mf.algorithm.MetaFusion.fuse", 1),
    "statistics of the second task": ("css.s2mf.slow._label_loss", 2),
    "layouts of the second task": ("css.dream.layouts.LayoutStatistics.update", 2),
    "alignment": ("css.s2mf.alignment.aligned", 1),
    "features of the second task": ("css.s2mf.alignment._answers", 1),
    "while the folder is written": ("css.s2mf.algorithm.draw_dreams", 1),
}


ALWAYS = ("slow", "dreams of new classes", "fusion", "alignment", "statistics of the second task")
ALL_MOMENTS = {**MOMENTS, **LATER_MOMENTS}


@pytest.mark.parametrize("moment", [m if m in ALWAYS else pytest.param(m, marks=pytest.mark.slow) for m in ALL_MOMENTS])
def test_killed_in_any_stage(moment, runs, data, tmp_path, monkeypatch):
    """The run goes on where it was and ends with the same tensors, bit by bit."""
    function, calls = ALL_MOMENTS[moment]
    method, options = META
    if moment in LATER_MOMENTS:
        after_first_task(runs("meta"), tmp_path / "run")
    again = run_arguments(data, tmp_path, "run", "--method", method, *QUICK_S2MF, *options, protocol="2-1")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(function, kill_at(function, calls))
        css(*again)
    assert not (tmp_path / "run" / "task_1").exists()
    assert css(*again).code == 0
    for path in sorted(runs("meta").rglob("task_*/*.safetensors")):
        expected, found = load_tensors(path)[0], load_tensors(tmp_path / "run" / path.relative_to(runs("meta")))[0]
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items()), path
    logs = [(run / "log.jsonl").read_text() for run in (runs("meta"), tmp_path / "run")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == len(set(logs[0].splitlines()))


def test_configuration_round_trip(runs):
    saved = read_config(runs("given"))
    assert saved["options"]["alpha"] == 0.25 and saved["options"]["base"]["thresholds"] == "median"
    assert as_dict(from_dict(saved, "test"))["options"] == saved["options"]
    assert css("report", runs("given")).code == 0


def test_help_shows_base_and_own_options():
    text = css("run", "voc", "15-1", "--method", "plop+s2mf", "--help").out
    for flag in ("--options.base.pod-factor", "--options.projector", "--options.rule.kind", "--options.dream.steps"):
        assert flag in text


SHARED = ["--method", "plop+s2mf", "--options.projector", "tpnsp", "--train.later-epochs", "2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "joint+s2mf"], "plop+s2mf"),
        (["--method", "frozen+s2mf"], "by its losses alone"),
        (["--method", "plop+other"], "BASE+s2mf"),
        (["--method", "nothing+s2mf"], "--method nothing is unknown"),
        (["--method", "plop+s2mf", "--options.projector", "nsp"], "--train.later-epochs 2"),
        (["--method", "plop+s2mf", "--train.later-epochs", "2", "--options.fast-share", "1.5"], "--options.fast-share"),
        ([*SHARED, "--options.fast-share", "0.9"], "--options.fast-share 0.9 of --train.later-epochs 2"),
        (["--method", "plop+s2mf", "--options.fusion", "linear", "--options.alpha", "7"], "--options.alpha 7"),
        (["--method", "plop+s2mf", "--options.current-images", "-3"], "--options.current-images -3"),
        (["--method", "plop+s2mf", "--options.alpha", "0.5"], "--options.fusion linear"),
        ([*SHARED, "--options.statistics.group", "class", "--options.statistics.loss", "logits"], "needs no labels"),
        (["--method", "plop+s2mf", "--train.later-epochs", "2", "--options.dream.count", "1"], "leaves no room"),
        (["--method", "plop+s2mf", "--options.statistics.batches", "0"], "--options.statistics.batches 0"),
        (["--method", "ewc+s2mf", "--train.later-epochs", "2", "--options.base.weight", "-1"], "--options.base.weight"),
        (["--method", "plop+s2mf", "--options.projector", "all", "--options.fusion", "none"], "--options.fusion meta"),
    ],
)
def test_bad_input_is_one_sentence(options, words, data, tmp_path):
    outcome = css(*run_arguments(data, tmp_path, "bad", *options, protocol="2-1"))
    assert outcome.code == 2 and words in outcome.complaint
    assert not (tmp_path / "bad").exists()


def test_room_for_dreams_is_asked_of_every_task_at_the_start(data, tmp_path):
    """One dream suffices for the second task, which has one old class, and not for the third."""
    options = ["--method", "plop+s2mf", *QUICK_S2MF, "--options.dream.count", "1"]
    outcome = css(*run_arguments(data, tmp_path, "few", *options, protocol="1-1"))
    assert outcome.code == 2 and "--options.dream.count 1 leaves no room for some of 2 classes" in outcome.complaint
    assert not (tmp_path / "few").exists()


def test_thresholds_are_medians_around_plop():
    """And with options of the base that a recipe names beside them; PLOP itself has the published ones."""
    assert default_options("plop+s2mf").base.thresholds == "median"
    assert default_options("plop").thresholds == "official"
    default = preset("voc", "plop+s2mf")
    config = merge(default, {"options": {"base": {"pod_factor": 0.5}}}, "test")
    assert (config.options.base.pod_factor, config.options.base.thresholds) == (0.5, "median")
    assert default_options("plop+replay").base.thresholds == "official"


def test_a_wrapped_method_holds_its_base_and_can_be_pickled():
    method = pickle.loads(pickle.dumps(make_method("plop+replay+s2mf")))
    assert [type(part) for part in (method, method.base, method.base.base)] == [Split2MetaFusion, Replay, Plop]
    assert all(isinstance(part, Method) for part in (method, method.base, method.base.base))
    assert [part.flag for part in (method, method.base, method.base.base)] == [
        "--options", "--options.base", "--options.base.base"
    ]  # fmt: skip
    assert method.options.base == method.base.options and method.options.base.base == method.base.base.options
    assert json.dumps(as_dict(preset("voc", "plop+s2mf")))
