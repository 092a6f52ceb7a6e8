"""`css extend` with many classes, ids far from the model's, names of all sorts, and several processes."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import together
from PIL import Image
from small_folder import OPTIONS, write_folder
from small_voc import css, plain_machine, read_results

from css.extend.request import Request
from css.system.tensors import load_tensors

NAMES = [f"Größe {value}" for value in range(21, 61)]
PLAIN = [*OPTIONS[:-1], "finetune"]  # such a run keeps no statistics


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder `old` of two classes, and the model `model` of both, made in one task."""
    root = tmp_path_factory.mktemp("many")
    with plain_machine(root / "cache"):
        write_folder(root / "old", {1: "a", 2: "b"}, {1: 1, 2: 2})
        run = ["run", root / "old", "2-0", "--runs", root, "--name", "model", *PLAIN]
        outcome = css(*run)
        assert outcome.code == 0, outcome.err
        yield root


def extend(place, data, *classes, out, options=()):
    return css("extend", place / "model", "--data", data, "--classes", *classes, "--out", out, *options)


def write_many(root: Path) -> Path:
    """Eight images in each of which all of forty classes have a square; their values are 21 to 60."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(8):
        mask = np.zeros((64, 64), np.uint8)
        for number, square in enumerate(rng.permutation(40)):
            row, column = divmod(number, 8)
            mask[row * 12 : row * 12 + 12, column * 8 : column * 8 + 8] = 21 + square
        image = np.stack([mask * 4, 255 - mask, mask], -1)
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    (root / "classes.txt").write_text("".join(f"{21 + place}: {name}\n" for place, name in enumerate(NAMES)))
    assert css("data", "init", root).code == 0
    return root


def test_forty_classes_of_the_values_21_to_60(place, tmp_path):
    data = write_many(tmp_path / "many")
    outcome = extend(place, data, *NAMES, out=tmp_path / "larger")
    assert outcome.code == 0, outcome.err
    results = read_results(tmp_path / "larger")
    assert results["class_names"] == ["background", "a", "b", *NAMES]
    assert results["protocol_groups"] == [[0, 1, 2], list(range(3, 43))]
    iou = results["tasks"][-1]["iou"]
    assert len(iou) == 43 and None not in iou[3:] and "| Größe 60 " in outcome.out
    assert css("predict", tmp_path / "larger", data / "images" / "0.png", "--out", tmp_path).code == 0
    assert set(np.unique(np.array(Image.open(tmp_path / "0_mask.png")))) <= set(range(43))
    assert css("evaluate", tmp_path / "larger").code == 0


def test_two_data_sets_of_the_same_name(place, tmp_path):
    """The name of a folder, and that in its data.yaml, decide nothing."""
    first = write_folder(tmp_path / "one" / "data", {3: "hat"}, {3: 3})
    second = write_folder(tmp_path / "two" / "data", {1: "bag", 2: "hat"}, {2: 1, 3: 2}, count=12)
    assert extend(place, first, "hat", out=tmp_path / "hat").code == 0
    outcome = css("extend", tmp_path / "hat", "--data", second, "--classes", "bag", "--old-test", first)
    assert outcome.code == 0, outcome.err
    results = read_results(tmp_path / "hat+bag")
    assert results["class_names"] == ["background", "a", "b", "hat", "bag"]
    assert results["extends"]["before"]["hat"] is not None
    again = extend(place, second, "hat", out=tmp_path / "hat")
    assert again.code == 2 and str(second) in again.complaint and str(first) in again.complaint


@pytest.mark.parametrize("name", ["Hüte & Mützen", "Schal / Tuch", "-x", "帽子"])
def test_names_of_all_sorts(name, place, tmp_path):
    """Also as macOS writes umlauts: as two letters."""
    data = write_folder(tmp_path / "neue Bilder", {3: name}, {3: 3}, count=8)
    model = shutil.copytree(place / "model", tmp_path / "Läufe" / "mein Netz")
    given = f"--classes={unicodedata.normalize('NFD', name)}"
    outcome = css("extend", model, "--data", data, given)
    assert outcome.code == 0, outcome.err
    (out,) = (path for path in model.parent.iterdir() if path != model)
    assert read_results(out)["class_names"][3] == name and f"| {name} " in outcome.out
    assert css("report", out).code == 0


def test_folder_of_many_names():
    request = Request(Path("runs/model"), "data", tuple(NAMES))
    assert request.folder == Path("runs/model+Größe 21+39 more")
    assert Request(Path("runs/model"), "data", ("a/b", "c\\d")).folder == Path("runs/model+a_b+c_d")


def test_two_processes(place, tmp_path):
    """They test as one does, print one table, and leave the network as it is."""
    data = write_folder(tmp_path / "new", {3: "hat"}, {3: 3})
    options = ["--data", data, "--classes", "hat", "--old-test", place / "old"]
    both = together(tmp_path / "forks", ["extend", place / "model", *options, "--out", tmp_path / "two"], 2)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("| hat ") == 1 and "of the model's own answers" in both.stdout
    assert extend(place, data, "hat", out=tmp_path / "one", options=["--old-test", place / "old"]).code == 0
    two, one = (read_results(tmp_path / name) for name in ("two", "one"))
    assert two["complete"] and two["extends"]["before"] == one["extends"]["before"]
    assert np.sum(two["tasks"][1]["confusion"]) == np.sum(one["tasks"][1]["confusion"])
    before, after = (
        load_tensors(run / f"task_{task}" / "model.safetensors")[0]
        for run, task in ((place / "model", 0), (tmp_path / "two", 1))
    )
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "classifiers" not in name)
    counts = after["method.sums"][:, -1]
    assert counts[-1] > 0 and counts.sum() > 0


def test_bad_input_of_two_processes_is_one_sentence(place, tmp_path):
    data = write_folder(tmp_path / "new", {3: "a"}, {3: 3}, count=4)
    arguments = ["extend", place / "model", "--data", data, "--classes", "a", "--out", tmp_path / "two"]
    both = together(tmp_path / "forks", arguments, 2)
    ours = [line for line in both.stderr.splitlines() if line.startswith("css: ")]
    assert both.returncode == 2 and len(ours) == 1 and "is a class of" in ours[0]
    assert not (tmp_path / "two").exists()
