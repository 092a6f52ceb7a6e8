"""Own data as a user has them: `css data`, then a run, its pictures and predictions, from a folder with data.yaml."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_voc import SETTING, css, few_classes, picture_side, plain_machine, read_results

from css.report.pictures import SIDE
from tasks.datasets.shapes import render
from tasks.datasets.voc import CLASS_NAMES, voc_palette
from tasks.folder import Folder
from tasks.palette import distinct_palette, vivid_palette

NAMES = ["große Tür", "Wand", "bag (old)"]
OPTIONS = [*SETTING[SETTING.index("--model.encoder") :], "--method", "finetune"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with plain_machine(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def folder(machine, tmp_path_factory) -> Path:
    """Thirty scenes with class ids 21, 22 and 23, described by `css data init` and classes.txt."""
    root = tmp_path_factory.mktemp("own") / "meine Daten"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index in range(30):
        image, mask = render(80, 0, "train", index)
        mask = few_classes(mask)
        Image.fromarray(image).save(root / "images" / f"{index:03d}.jpg")
        Image.fromarray(np.where((mask > 0) & (mask < 255), mask + 20, mask)).save(root / "masks" / f"{index:03d}.png")
    (root / "classes.txt").write_text("".join(f"{20 + i}: {name}\n" for i, name in enumerate(NAMES, 1)))
    outcome = css("data", "init", root)
    assert outcome.code == 0 and "große Tür" in outcome.out and "data.yaml is written" in outcome.out
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    with picture_side(SIDE):
        assert (
            css("run", folder, "2-1", "--order", "Wand", "große Tür", "bag (old)", "--runs", runs, *OPTIONS).code == 0
        )
    return next(runs.iterdir())


def test_check_prints_classes_and_draws_them(folder, tmp_path):
    outcome = css("data", folder, "--sheet", tmp_path / "sheet.png")
    assert outcome.code == 0 and "    21  große Tür" in outcome.out and "problem" not in outcome.out
    assert css("data", "check", folder, "--sheet", tmp_path / "sheet.png").out == outcome.out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] == 3 * 180


def test_run_has_the_users_names_and_colours(run):
    results = read_results(run)
    assert results["class_names"] == ["background", *NAMES] and results["protocol_groups"] == [[0, 2, 1], [3]]
    assert run.name == "meine Daten-2-1-overlap-finetune-s0"
    assert results["colours"] == distinct_palette()[:4].tolist()
    assert not set(CLASS_NAMES[1:]) & set(NAMES)
    assert css("report", run).out.splitlines()[0] == "meine Daten 2-1 overlap, finetune, seed 0: mIoU in %"
    colours = {tuple(c) for c in np.array(Image.open(next(run.rglob("pictures.png")))).reshape(-1, 3).tolist()}
    assert {tuple(c) for c in vivid_palette()[1:4].tolist()} <= colours  # what stands out from photographs
    assert not {tuple(c) for c in voc_palette()[1:].tolist()} & {tuple(c) for c in vivid_palette()[1:4].tolist()}


def test_predicted_masks_have_its_colours(run, folder, tmp_path):
    assert css("predict", run, folder / "images" / "000.jpg", "--out", tmp_path).code == 0
    with Image.open(tmp_path / "000_mask.png") as mask:
        assert mask.getpalette()[: 3 * 4] == distinct_palette()[:4].ravel().tolist()
        assert mask.getpalette()[3 : 3 * 4] != voc_palette()[1:4].ravel().tolist()
        assert set(np.unique(np.array(mask)).tolist()) <= {0, 1, 2, 3}


def test_folder_may_move(run, folder, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    before = css("evaluate", run)
    folder.rename(folder.with_name("gone"))
    try:
        assert css("evaluate", run, "--data-root", moved).out == before.out
        assert "is not a folder" in css("evaluate", run).complaint
    finally:
        folder.with_name("gone").rename(folder)


def test_wrong_path_is_not_replaced_by_the_default_root(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert "gone is not a folder" in css("run", tmp_path / "gone", "2-1", *OPTIONS).complaint


def test_other_data_are_noticed(run, folder):
    mask = folder / "masks" / "000.png"
    content = mask.read_bytes()
    mask.write_bytes((folder / "masks" / "001.png").read_bytes())
    try:
        assert f"The data at {folder} is not what" in css("evaluate", run).complaint
    finally:
        mask.write_bytes(content)


def test_relative_path_is_the_same_data_set(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    options = ["1-1", "--setting", "partitioned", "--runs", tmp_path / "runs", *OPTIONS]
    assert css(folder.name, *options).code == 0
    assert css("run", folder / "masks" / "..", *options).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    results = read_results(run)
    images = [task["train_images"] for task in results["tasks"]]
    assert sum(images) == Folder(folder).presence("train")[:, 1:4].any(1).sum() and min(images) > 0


def test_two_folders_of_one_name_do_not_share_a_run(folder, tmp_path):
    runs, other = tmp_path / "runs", tmp_path / folder.name
    shutil.copytree(folder, other)
    assert css("run", folder, "2-1", "--runs", runs, *OPTIONS).code == 0
    complaint = css("run", other, "2-1", "--runs", runs, *OPTIONS).complaint
    assert "dataset is" in complaint and str(other) in complaint


def test_convert_then_check(tmp_path):
    Image.new("RGB", (20, 10), "green").save(tmp_path / "a b.png")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "c.png")
    square = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]], "category_id": 3, "iscrowd": 0}
    content = {
        "images": [{"id": n, "file_name": f, "width": 20, "height": 10} for n, f in enumerate(("a b.png", "c.png"))],
        "annotations": [{**square, "id": n, "image_id": n} for n in range(2)], "categories": [{"id": 3, "name": "Öse"}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(content))
    outcome = css("data", "convert", tmp_path / "coco.json", "--out", tmp_path / "out")
    assert outcome.code == 0 and "1 classes, Öse" in outcome.out
    checked = css("data", tmp_path / "out")
    assert checked.code == 0 and "Öse" in checked.out and (tmp_path / "out" / "classes.png").exists()
    assert "is there already" in css("data", "convert", tmp_path / "coco.json", "--out", tmp_path / "out").complaint


def test_check_with_problems_is_exit_code_2(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "images" / "000.jpg").write_bytes(b"")
    outcome = css("data", "check", broken)
    assert outcome.code == 2 and "has 1 problem(s)" in outcome.complaint and "000.jpg cannot be read" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data", "chek", "x"), "'chek' is neither a command nor a folder; did you mean check"),
        (("data", "init", "nowhere"), "nowhere is not a folder"),
        (("data", "check", "."), "has no data.yaml"),
        (("run", "./nowhere", "2-1"), "nowhere is not a folder"),
        (("run", "nowhere", "2-1"), "'nowhere' is unknown"),
        (("data", "convert", "nowhere.json", "--out", "out"), "nowhere.json does not exist"),
        (("data", "convert", "--out", "out"), "name one source"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, machine, arguments, says):
    monkeypatch.chdir(tmp_path)
    outcome = css(*arguments)
    assert outcome.code == 2 and says in outcome.complaint
    assert not list(tmp_path.iterdir())
