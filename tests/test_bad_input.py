"""What a user can get wrong ends in one sentence that names the file or the flag, exits with 2 and leaves nothing."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from small_voc import Outcome, css, plain_machine, read_results, run_arguments, write_small_voc

from tasks.datasets.voc import IMAGES, LISTS, MASKS


@pytest.fixture(scope="module", autouse=True)
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_input")
    with plain_machine(folder / "cache"):
        yield write_small_voc(folder / "voc")


@pytest.fixture
def data(good, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(good, tmp_path / "voc")


@pytest.fixture(scope="module")
def finished(good, tmp_path_factory):
    runs = tmp_path_factory.mktemp("finished")
    assert css(*run_arguments(good, runs, "run", "--method", "finetune", protocol="2-1")).code == 0
    return runs / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run that a test may damage."""
    return shutil.copytree(finished, tmp_path / "runs" / "run")


def refused(data: Path, tmp_path: Path, *options: object, protocol: str = "1-1") -> str:
    """The sentence of a run that must be refused before anything is written."""
    outcome = css(*run_arguments(data, tmp_path / "runs", "run", *options, protocol=protocol))
    assert outcome.code == 2
    assert not (tmp_path / "runs").exists()
    return outcome.complaint


def test_the_good_input_is_accepted(finished):
    """All refusals below are about the one thing that each test changes."""
    assert read_results(finished)["complete"]


@pytest.mark.parametrize("protocol", ["17-9", "0-1", "15-x", "3-1", "2", "1-0", "-1", "1-1-1"])
def test_protocol(protocol, good, tmp_path):
    assert f"protocol '{protocol}'" in refused(good, tmp_path, protocol=protocol) or protocol.startswith("-")


def test_unknown_data_set(tmp_path):
    outcome = css("run", "pascal", "1-1", "--runs", tmp_path / "runs")
    assert outcome.code == 2 and "'pascal'" in outcome.complaint and "voc, shapes" in outcome.complaint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["run"], ["run", "voc"], ["run", "voc", "--seed", "1"], ["learn", "voc", "1-1"]])
def test_incomplete_or_unknown_command(arguments):
    outcome = css(*arguments)
    assert outcome.code == 2 and outcome.complaint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "plopp"], ["--method plopp", "finetune, joint, plop"]),
        (["--method", "no_such_module:Method"], ["--method no_such_module:Method", "module path"]),
        (["--method", "css.method:no_such_class"], ["--method css.method:no_such_class"]),
        (["--method", "css.method.contract:cross_entropy"], ["not a subclass"]),
        (["--train.crop", "56"], ["--train.crop 56", "multiple of 16"]),
        (["--train.crop", "16"], ["--train.crop 16", "at least 32"]),
        (["--train.crop", "48"], ["--train.crop 48", "plop", "64"]),
        (["--train.batch", "1"], ["--train.batch", "at least 2"]),
        (["--train.accumulate", "8"], ["--train.accumulate", "at least 2"]),
        (["--train.accumulate", "3"], ["--train.accumulate 3", "multiple of 3"]),
        (["--train.bn-group", "3"], ["--train.bn-group 3"]),
        (["--train.bn-group", "1"], ["--train.bn-group"]),
        (["--train.epochs", "0"], ["--train.epochs"]),
        (["--train.later-epochs", "0"], ["--train.later-epochs"]),
        (["--train.workers", "-1"], ["--train.workers"]),
        (["--train.bn-group", "0"], ["--train.bn-group"]),
        (["--train.lr", "-1"], ["--train.lr"]),
        (["--train.later-lr", "nan"], ["--train.later-lr"]),
        (["--train.momentum", "-1"], ["--train.momentum"]),
        (["--train.weight-decay", "-1"], ["--train.weight-decay"]),
        (["--train.sync-bn"], ["--train.sync-bn"]),
        (["--train.optimizer", "apex"], ["--train.optimizer apex", "PyPI"]),
        (["--classes", "aeroplane", "zebra"], ["--classes", "'zebra'"]),
        (["--classes", "1", "2", "2"], ["--classes", "twice"]),
        (["--order", "bird", "bicycle"], ["--order"]),
        (["--classes", "1", "2", "9"], ["Task 2 (chair)", "no train image", "--classes"]),
        (["--task0", "nowhere"], ["--task0 nowhere"]),
        (["--model.encoder", "resnet19"], ["--model.encoder 'resnet19'"]),
        (["--model.encoder", "vgg11"], ["--model.encoder vgg11"]),  # has no output stride of 16
        (["--model.encoder-weights", "nowhere.safetensors"], ["--model.encoder-weights nowhere.safetensors"]),
        (["--method", "joint", "--task0", "nowhere"], ["--task0", "joint"]),
    ],
)  # fmt: skip
def test_options(options, words, good, tmp_path):
    sentence = refused(good, tmp_path, *options)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    "options",
    [["--no-such-option", "1"], ["--setting", "mixed"], ["--train.lr", "fast"], ["--options.thresholds", "mean"],
     ["--method", "finetune", "--options.floor", "1"]],
)  # fmt: skip
def test_unknown_option_or_value(options, good, tmp_path):
    outcome = css(*run_arguments(good, tmp_path / "runs", "run", *options))
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert options[-2].removeprefix("--") in outcome.err
    assert not (tmp_path / "runs").exists()


def test_encoder_weights_of_another_architecture(good, tmp_path):
    weights = tmp_path / "resnet18.safetensors"
    save_file(get_encoder("resnet18", weights=None).state_dict(), weights)
    sentence = refused(good, tmp_path, "--model.encoder-weights", weights)
    assert str(weights) in sentence and "tu-test_resnet" in sentence


def test_encoder_weights_that_are_none(good, tmp_path):
    for name, content in (("text.pth", b"not weights"), ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{}"), ("no.pth", b"")):
        (tmp_path / name).write_bytes(content)
        assert name in refused(good, tmp_path, "--model.encoder-weights", tmp_path / name)


def no_data_root(root):
    shutil.rmtree(root)
    return str(root)


def empty_data_root(root):
    shutil.rmtree(root)
    root.mkdir()
    return "JPEGImages"


def file_as_data_root(root):
    shutil.rmtree(root)
    root.write_text("")
    return str(root)


def another_layout(root):
    (root / MASKS).rename(root / "labels")
    return MASKS


def no_list(root):
    (root / LISTS["test"]).unlink()
    return LISTS["test"]


def empty_list(root):
    (root / LISTS["train"]).write_text("\n")
    return LISTS["train"]


def missing_image(root):
    (root / IMAGES / "train_007.jpg").unlink()
    return "train_007.jpg"


def missing_mask(root):
    (root / MASKS / "test_003.png").unlink()
    return "test_003.png"


def truncated_image(root):
    truncate(root / IMAGES / "train_007.jpg")
    return "train_007.jpg"


def truncated_mask(root):
    truncate(root / MASKS / "train_007.png")
    return "train_007.png"


def image_of_another_size(root):
    path = root / IMAGES / "test_003.jpg"
    Image.open(path).resize((50, 50)).save(path)
    return "test_003.jpg"


def rgb_mask(root):
    path = root / MASKS / "train_007.png"
    mask = Image.open(path).convert("RGB")
    mask.putpixel((0, 0), (1, 2, 3))  # no class has this colour
    mask.save(path)
    return "train_007.png"


def mask_with_value_21(root):
    path = root / MASKS / "train_007.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = 21
    Image.fromarray(mask).save(path)
    return "train_007.png"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [no_data_root, empty_data_root, file_as_data_root, another_layout, no_list, empty_list, missing_image, missing_mask,
     truncated_image, truncated_mask, image_of_another_size, rgb_mask, mask_with_value_21],
)  # fmt: skip
def test_data(damage, data, tmp_path):
    name = damage(data)
    assert name in refused(data, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_is_truncated_after_the_check(workers, data, tmp_path, monkeypatch):
    """The error may come from a worker process, which wraps it in a traceback of its own."""
    from css.run import flow

    def open_folder(*arguments):
        for path in (data / IMAGES).glob("train_*.jpg"):
            truncate(path)
        return original(*arguments)

    original = flow.open_folder
    monkeypatch.setattr(flow, "open_folder", open_folder)
    outcome = css(*run_arguments(data, tmp_path / "runs", "run", "--train.workers", workers))
    assert outcome.code == 2
    assert str(data / IMAGES / "train_") in outcome.complaint and "cannot be read" in outcome.complaint
    assert not (tmp_path / "runs" / "run" / "task_0").exists()


def test_nan_loss_names_the_step_and_keeps_the_checkpoint(good, tmp_path):
    options = ["--method", "finetune", "--train.epochs", "2", "--train.later-lr", "1e20"]
    outcome = css(*run_arguments(good, tmp_path, "run", *options, protocol="2-1"))
    assert outcome.code == 2
    assert "task 1, epoch 0, iteration 1" in outcome.complaint and "--train.later-lr" in outcome.complaint
    assert read_results(tmp_path / "run")["complete"] is False
    assert (tmp_path / "run" / "task_0" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "task_1").exists()
    assert css("evaluate", tmp_path / "run").code == 0  # task 0 is as good as ever


def test_nan_loss_in_a_later_epoch_leaves_the_checkpoint_of_the_last(good, tmp_path, monkeypatch):
    from css.training.trainer import Trainer

    step = Trainer._step
    counted = iter(range(6))

    def becomes_nan(*arguments):
        values = step(*arguments)
        return values if next(counted, None) is not None else {name: float("nan") for name in values}

    arguments = run_arguments(good, tmp_path, "run", "--method", "finetune", "--train.epochs", "2", protocol="2-1")
    monkeypatch.setattr(Trainer, "_step", becomes_nan)
    outcome = css(*arguments)
    assert outcome.code == 2 and "task 0, epoch 1, iteration 6" in outcome.complaint
    assert [path.name for path in (tmp_path / "run" / "task_0.work").iterdir()] == ["fit.safetensors"]
    monkeypatch.setattr(Trainer, "_step", step)
    assert css(*arguments).code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if line["task"] == 0] == [*range(8)]


def resumed(good: Path, run: Path) -> Outcome:
    return css(*run_arguments(good, run.parent, run.name, "--method", "finetune", protocol="2-1"))


def corrupt(path: Path) -> None:
    path.write_bytes(b"garbage" + path.read_bytes()[7:])


def foreign_tensors(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def of_another_network(path: Path) -> None:
    metadata = {"format": "css-1", "facts": "{}"}
    save_file({"model.encoder.weight": torch.zeros(2)}, path, metadata=metadata)


@pytest.mark.parametrize("damage", [truncate, corrupt, foreign_tensors, of_another_network, Path.unlink])
@pytest.mark.parametrize("command", ["run", "evaluate", "predict"])
def test_checkpoint_of_a_finished_task(damage, command, good, run):
    damage(run / "task_1" / "model.safetensors")
    if command == "run":
        (run / "results.json").unlink()  # a complete run is shown from its results alone
        outcome = resumed(good, run)
    else:
        outcome = css(command, run, *([good / IMAGES / "test_000.jpg"] if command == "predict" else []))
    assert outcome.code == 2
    assert str(run / "task_1" / "model.safetensors") in outcome.complaint


@pytest.mark.parametrize("damage", [truncate, foreign_tensors, of_another_network])
def test_checkpoint_of_an_unfinished_task(damage, good, run):
    work = run / "task_1.work"
    work.mkdir()
    (run / "results.json").unlink()
    (run / "task_1" / "model.safetensors").rename(work / "fit.safetensors")
    shutil.rmtree(run / "task_1")
    damage(work / "fit.safetensors")
    outcome = resumed(good, run)
    assert outcome.code == 2 and str(work / "fit.safetensors") in outcome.complaint
    assert not (run / "task_1").exists()


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"mIoU": 0.7}', ""])
@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_results_json_that_is_not_ours(text, command, run):
    (run / "results.json").write_text(text)
    outcome = css(command, run)
    assert outcome.code == 2 and str(run / "results.json") in outcome.complaint


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"mIoU": 0.7}', ""])
def test_result_of_a_task_that_is_not_ours(text, good, run):
    (run / "results.json").unlink()
    (run / "task_0" / "result.json").write_text(text)
    outcome = resumed(good, run)
    assert outcome.code == 2 and str(run / "task_0" / "result.json") in outcome.complaint


def test_run_that_is_resumed_with_other_data(good, run, tmp_path):
    """Whether it is complete or not: numbers of two data sets must never meet in one results.json."""
    other = shutil.copytree(good, tmp_path / "other")
    images = (other / LISTS["train"]).read_text().split()
    (other / LISTS["train"]).write_text("\n".join(images[:-1]) + "\n")
    before = read_results(run)
    for complete in (True, False):
        if not complete:
            shutil.rmtree(run / "task_1")
            (run / "results.json").unlink()
        outcome = resumed(other, run)
        assert outcome.code == 2 and "the data are others" in outcome.complaint
        assert not complete or read_results(run) == before


def test_run_folder_in_use_by_another_process(good, run):
    (run / "results.json").unlink()
    holder = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", holder, run / "log.jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        outcome = resumed(good, run)
        other.communicate(b"\n")
    assert outcome.code == 2 and f"{run} is in use" in outcome.complaint
    assert resumed(good, run).code == 0


def test_predict_of_two_images_with_one_name(run, good, tmp_path):
    other = shutil.copy(good / IMAGES / "test_000.jpg", tmp_path / "test_000.jpg")
    outcome = css("predict", run, good / IMAGES / "test_000.jpg", other, "--out", tmp_path / "out")
    assert outcome.code == 2 and "same name" in outcome.complaint and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00", "dataset: voc"])
def test_config_yaml_that_is_not_ours(text, good, run):
    (run / "config.yaml").write_text(text)
    for outcome in (resumed(good, run), css("evaluate", run)):
        assert outcome.code == 2 and str(run) in outcome.complaint


@pytest.mark.parametrize("command", ["report", "evaluate", "predict"])
def test_run_folder_that_is_none(command, good, tmp_path):
    outcome = css(command, tmp_path / "nowhere", *([good / IMAGES / "test_000.jpg"] if command == "predict" else []))
    assert outcome.code == 2 and str(tmp_path / "nowhere") in outcome.complaint
    assert not (tmp_path / "nowhere").exists()


def test_task_that_is_not_finished(run):
    outcome = css("evaluate", run, "--task", "7")
    assert outcome.code == 2 and "--task 7" in outcome.complaint and "0 to 1" in outcome.complaint


def test_predict_of_what_is_no_image(run, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    for path in (tmp_path / "notes.txt", tmp_path / "absent.jpg"):
        outcome = css("predict", run, path, "--out", tmp_path / "out")
        assert outcome.code == 2 and path.name in outcome.complaint
    assert css("predict", run).code == 2 and css("report").code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["runs", "runs/run"])
def test_file_in_place_of_the_run_folder(name, good, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    outcome = css(*run_arguments(good, tmp_path / "runs", "run"))
    assert outcome.code == 2
    assert "Cannot write" in outcome.complaint and str(path) in outcome.complaint and "--runs" in outcome.complaint
    assert path.read_text() == "mine"


def test_full_disk(good, tmp_path):
    """A limit on the size of a file stops the checkpoint in the middle, as a full disk does; then there is room."""
    arguments = run_arguments(good, tmp_path, "run", "--method", "finetune", protocol="2-1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # config, log and presence index fit in
    try:
        outcome = css(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 2
    assert "Cannot write" in outcome.complaint and "fit.safetensors" in outcome.complaint
    files = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*"))
    assert files == ["config.yaml", "log.jsonl", "task_0.work"]
    assert css(*arguments).code == 0 and read_results(tmp_path / "run")["complete"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dataset": "pascal"}, "pascal"),
        ({"protocols": ["17-9"]}, "17-9"),
        ({"methods": ["plopp"]}, "plopp"),
        ({"colour": "red"}, "colour"),
        ({"settings": {"train": {"epoch": 3}}}, "epoch"),
        ({"settings": {"train": 3}}, "train"),
        ({"options": {"plop": {"factor": 3}}}, "factor"),
        ({"options": {"finetune": {}}}, "finetune"),
        ({"options": None}, "options"),
        ({"seeds": 1}, "seeds"),
        ({"protocols": "15-1"}, "protocols"),
        ({"settings": {"train": {"optimizer": "lion"}}}, "optimizer"),
        ({"settings": {"train": {"epochs": "many"}}}, "epochs"),
    ],
)
def test_recipe(change, word, good, tmp_path):
    plan = {"dataset": "voc", "protocols": ["15-1"], "methods": ["plop"], "seeds": [1], **change}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan))
    outcome = css("table", tmp_path / "recipe.yaml", "--data-root", good, "--runs", tmp_path / "runs")
    assert outcome.code == 2 and word in outcome.complaint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", [None, "", "title: [", "title: nothing else"])
def test_recipe_that_is_none(text, tmp_path):
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    outcome = css("table", tmp_path / "recipe.yaml", "--runs", tmp_path / "runs")
    assert outcome.code == 2 and "recipe.yaml" in outcome.complaint
