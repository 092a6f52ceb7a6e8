"""`css extend` as a practitioner uses it: a trained model, images of a new class in a folder, no old data."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_folder import OPTIONS, write_folder
from small_voc import Killed, css, kill_at, plain_machine, read_results

from css.extend.statistics import sure_answers
from css.extend.table import extension_table
from css.system.tensors import load_tensors, save_tensors
from tasks.folder import Folder
from tasks.renamed import Renamed

OLD, NEW = {21: "große Tür", 22: "Wand", 23: "Öse"}, {3: "bag (old)", 9: "Wand"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders `old` (three classes) and `new` (one class, and one of the old ones), and the model `runs/model`."""
    root = tmp_path_factory.mktemp("extend")
    with plain_machine(root / "cache"):
        write_folder(root / "old", OLD, {1: 21, 2: 22, 3: 23})
        write_folder(root / "new", NEW, {3: 3, 2: 9})
        run = ["run", root / "old", "1-1", "--runs", root / "runs", "--name", "model", "--classes", "große Tür", "Wand"]
        assert css(*run, *OPTIONS).code == 0
        yield root


def extend(place, *options, model="model", classes=("bag (old)",)):
    return css("extend", place / "runs" / model, "--data", place / "new", "--classes", *classes, *options)


@pytest.fixture(scope="module")
def done(place):
    outcome = extend(place, "--old-test", place / "old")
    assert outcome.code == 0, outcome.err
    return outcome


def state(run, task):
    return load_tensors(run / f"task_{task}" / "model.safetensors")[0]


def test_the_new_class_has_an_id_after_those_of_the_model(done, place):
    results = read_results(place / "runs" / "model+bag (old)")
    assert results["class_names"] == ["background", "große Tür", "Wand", "Öse", "bag (old)"]
    assert results["protocol_groups"] == [[0, 1], [2], [4]] and results["complete"]
    assert results["colours"][:4] == read_results(place / "runs" / "model")["colours"]
    iou = results["tasks"][-1]["iou"]
    assert iou[2] is not None and iou[1] is None, "Wand is in the new images by its name, the door is not"


def test_table_says_what_was_learnt_and_lost(done, place):
    extends = read_results(place / "runs" / "model+bag (old)")["extends"]
    assert list(extends["before"]) == list(extends["after"]) == ["background", "große Tür", "Wand"]
    assert "| bag (old) |" in done.out and "| mean " in done.out and "kept by the model's run" in done.out
    before = css("evaluate", place / "runs" / "model").out
    means = [value for name, value in extends["before"].items() if name != "Wand"]
    assert f"| {100 * sum(means) / 2:.2f} |".split()[1] in before, "the same images and label map as the run's own test"


def test_old_network_stays(done, place):
    """Only classifiers move: the default learns nothing else."""
    before, after = (state(place / "runs" / name, task) for name, task in (("model", 1), ("model+bag (old)", 2)))
    for name in before:
        assert name.startswith(("model.classifiers", "method.")) or torch.equal(before[name], after[name]), name
    assert after["model.classifiers.2.weight"].shape[0] == 1


def test_result_is_a_run_folder(done, place, tmp_path):
    run = place / "runs" / "model+bag (old)"
    assert css("report", run).code == 0
    evaluated = css("evaluate", run)
    assert evaluated.code == 0 and f"{100 * read_results(run)['tasks'][-1]['groups']['new']:.2f}" in evaluated.out
    assert css("predict", run, place / "new" / "images" / "000.png", "--out", tmp_path).code == 0
    assert set(np.unique(np.array(Image.open(tmp_path / "000_mask.png")))) <= {0, 1, 2, 4}
    assert (run / "task_2" / "pictures.png").exists() and not (run / "task_2.work").exists()


def test_again_is_only_shown(done, place, monkeypatch):
    monkeypatch.setattr("css.extend.flow._learn", None)
    again = extend(place, "--old-test", place / "old")
    assert again.code == 0 and again.out == done.out


def test_old_classes_may_be_tested_later(done, place, tmp_path, monkeypatch):
    run = shutil.copytree(place / "runs" / "model+bag (old)", tmp_path / "run")
    results = read_results(run)
    tested = {key: results["extends"].pop(key) for key in ("old_test", "before", "after")}
    (run / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr("css.extend.flow.complete", None)
    assert extend(place, "--old-test", place / "old", "--out", run).out.splitlines()[:-1] == done.out.splitlines()[:-1]
    assert tested.items() <= read_results(run)["extends"].items()


def test_extended_twice(done, place, tmp_path):
    more = write_folder(tmp_path / "more", {5: "blue hat"}, {1: 5})
    outcome = css("extend", place / "runs" / "model+bag (old)", "--data", more, "--classes", "blue hat",
                  "--out", tmp_path / "twice")  # fmt: skip
    assert outcome.code == 0, outcome.err
    results = read_results(tmp_path / "twice")
    assert results["protocol_groups"] == [[0, 1], [2], [4], [5]] and results["class_names"][5] == "blue hat"
    assert "Old classes were not tested" in outcome.out


def test_killed_extension_goes_on(done, place, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("css.s2mf.moments.FeatureMoments.update", kill_at("css.s2mf.moments.FeatureMoments.update", 1))
        extend(place, "--out", tmp_path / "again")
    assert not (tmp_path / "again" / "results.json").exists()
    ended = extend(place, "--out", tmp_path / "again", "--first-data", place / "old")
    assert ended.code == 0 and "kept by the model's run; --first-data is not used" in ended.out
    first, second = state(place / "runs" / "model+bag (old)", 2), state(tmp_path / "again", 2)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("first_data", [False, True])
def test_model_without_statistics(first_data, done, place, tmp_path):
    """A run that kept no moments: they are of labelled old images, or of the model's own answers."""
    plain = shutil.copytree(place / "runs" / "model", tmp_path / "plain")
    config = yaml.safe_load((plain / "config.yaml").read_text()) | {"method": "frozen", "options": {}}
    (plain / "config.yaml").write_text(yaml.safe_dump(config))
    tensors, facts = load_tensors(plain / "task_1" / "model.safetensors")
    network = {name: value for name, value in tensors.items() if name.startswith("model.")}
    save_tensors(plain / "task_1" / "model.safetensors", network, facts)
    options = ["--first-data", place / "old"] if first_data else []
    outcome = css("extend", plain, "--data", place / "new", "--classes", "bag (old)", *options)
    assert outcome.code == 0, outcome.err
    assert ("of --first-data" if first_data else "of the model's own answers") in outcome.out
    counts = state(tmp_path / "plain+bag (old)", 2)["method.sums"][:, -1]
    assert len(counts) == 4 and (not first_data or (counts[:3] > 0).all())


def test_run_on_hypercolumns_is_extended_on_them(place, tmp_path, monkeypatch):
    for module in ("css.model.hypercolumn", "css.s2mf.hypercolumns"):
        monkeypatch.setattr(f"{module}.COMPONENTS", 32)  # numbers per place, of which these few images show more
    run = ["run", place / "old", "1-1", "--runs", tmp_path, "--name", "run", "--classes", "große Tür", "Wand"]
    outcome = css(*run, *OPTIONS, "--method", "hypercolumn")
    assert outcome.code == 0, outcome.err
    for method in ("hypercolumn", "frozen+align"):
        more = ["--data", place / "new", "--classes", "bag (old)", "--method", method, "--out", tmp_path / method]
        extended = css("extend", tmp_path / "run", *more)
        assert extended.code == 0 and "kept by the model's run" in extended.out, extended.err
        tensors = state(tmp_path / method, 2)
        columns = [name for name in tensors if name.startswith("model.hypercolumn.")]
        assert columns and all(torch.equal(tensors[name], state(tmp_path / "run", 1)[name]) for name in columns)


BAD = [
    (["--classes", "Wand"], "'Wand' is a class of"),
    (["--classes", "hut"], "--classes: 'hut' is not a class of new"),
    (["--classes", "bag (old)", "bag (old)"], "--classes names a class twice"),
    (["--classes", "bag (old)", "--method", "joint"], "--method joint needs images of old classes"),
    (["--classes", "bag (old)", "--method", "plop+replay"], "needs images of old classes"),
    (["--classes", "bag (old)", "--method", "ewc"], "cannot go on from"),
    (["--classes", "bag (old)", "--method", "plob"], "--method plob is unknown"),
    (["--classes", "bag (old)", "--epochs", "0"], "--epochs must be at least 1"),
    (["--classes", "bag (old)", "--data", "{root}/empty"], "has no data.yaml"),
    (["--classes", "bag (old)", "--data", "{root}/nowhere"], "nowhere is not a folder"),
    (["--classes", "bag (old)", "--data", "{root}/cut"], "is 30x30"),
    (["--classes", "bag (old)", "--old-test", "{root}/others"], "has no class of"),
    (["--classes", "bag (old)", "--out", "{root}/runs/model"], "is the model itself"),
]


@pytest.mark.parametrize(("options", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input_is_one_sentence(options, says, place, tmp_path):
    if not (place / "empty").exists():
        (place / "empty").mkdir()
        shutil.copytree(place / "new", place / "cut")
        Image.new("L", (30, 30)).save(place / "cut" / "masks" / "003.png")
        write_folder(place / "others", {1: "tree"}, {1: 1}, count=4)
    options = [option.format(root=place) for option in options]
    out = [] if "--out" in options else ["--out", tmp_path / "out"]
    outcome = css("extend", place / "runs" / "model", "--data", place / "new", *options, *out)
    assert outcome.code == 2 and says in outcome.complaint
    assert not (tmp_path / "out").exists()


def test_another_model_into_the_same_folder_is_refused(done, place, tmp_path):
    other = shutil.copytree(place / "runs" / "model", tmp_path / "other")
    tensors, facts = load_tensors(other / "task_1" / "model.safetensors")
    save_tensors(other / "task_1" / "model.safetensors", {**tensors, "model.classifiers.0.bias": torch.ones(2)}, facts)
    outcome = css("extend", other, "--data", place / "new", "--classes", "bag (old)", "--out",
                  place / "runs" / "model+bag (old)")  # fmt: skip
    assert outcome.code == 2 and "was extended from another model" in outcome.complaint


def test_classes_are_matched_by_name(place):
    source = Renamed(Folder(place / "new"), ["background", "x", "Wand", "bag (old)"], [[0, 0, 0], [1, 2, 3]])
    _, mask = source.load("train", 0)
    own = Folder(place / "new").load("train", 0)[1]
    assert np.array_equal(mask, np.array([0, 3, 2, *[0] * 252, 255], np.uint8)[own])
    assert source.palette[1].tolist() == [1, 2, 3] and not source.presence("train")[:, 1].any()
    unknown = Renamed(Folder(place / "new"), ["background", "Wand"])
    assert set(np.unique(unknown.load("train", 0)[1])) <= {0, 1, 255}
    assert unknown.fingerprint() != source.fingerprint()


def test_sure_answers_by_hand():
    logits = torch.tensor([[[5.0, 1.0, 0.0]], [[0.0, 0.9, 5.0]]])[None]  # (1, 2, 1, 3): sure of 0, in doubt, sure of 1
    assert sure_answers(logits, torch.tensor([[[0, 0, 0]]]), 2).tolist() == [[[0, 255, 1]]]
    assert sure_answers(logits, torch.tensor([[[2, 0, 255]]]), 2).tolist() == [[[255, 255, 255]]]


def test_table_by_hand():
    extends = {"model": "m", "statistics": "s", "before": {"a": 0.5, "b": None}, "after": {"a": 0.25, "b": None}}
    text = extension_table(extends, {"new": 0.75})
    assert "| new       | 75.00 |" in text and "| a         |  50.00 | 25.00 | -25.00 |" in text
    assert "| b         |      - |     - |      - |" in text and "| mean      |  50.00 | 25.00 | -25.00 |" in text
    assert json.dumps(extends)
