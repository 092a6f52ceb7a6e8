"""Bad inputs of every kind: one sentence, exit code 2, nothing written.

Not collected by default: python -m pytest tests/chaos_inputs.py -m slow
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_voc import css, plain_machine, run_arguments, write_small_voc

from tasks.datasets.voc import IMAGES, LISTS, MASKS

pytestmark = pytest.mark.slow
LONG = "n" * 300

# Options of css run, and words of the sentence.
OPTIONS = {
    "a method nobody knows": (["--method", "plopp"], "plop"),
    "a module that is not there": (["--method", "no_such_module:Method"], "no_such_module"),
    "a class that is not there": (["--method", "css.method.contract:Nothing"], "Nothing"),
    "a function as method": (["--method", "css.losses:cross_entropy"], "subclass"),
    "a wrapper nobody knows": (["--method", "plop+glue"], "glue"),
    "a wrapper around a wrapper": (["--method", "plop+s2mf+align"], "align"),
    "an odd crop": (["--train.crop", "65"], "--train.crop 65"),
    "a tiny crop": (["--train.crop", "16"], "at least 32"),
    "a crop too small for plop": (["--train.crop", "32", "--method", "plop"], "local POD"),
    "a batch of one": (["--train.batch", "1"], "at least 2"),
    "a batch of none": (["--train.batch", "0"], "--train.batch"),
    "no epoch": (["--train.epochs", "0"], "--train.epochs"),
    "less than no epoch": (["--train.epochs", "-3"], "--train.epochs"),
    "no later epoch": (["--train.later-epochs", "0"], "--train.later-epochs"),
    "a rate below 0": (["--train.lr", "-0.1"], "--train.lr"),
    "a rate that is no number": (["--train.lr", "nan"], "--train.lr"),
    "a momentum below 0": (["--train.momentum", "-1"], "--train.momentum"),
    "a decay that is no number": (["--train.weight-decay", "nan"], "--train.weight-decay"),
    "halved after the end": (["--train.halve-at", "1.5"], "--train.halve-at"),
    "parts that do not divide": (["--train.accumulate", "3"], "--train.accumulate"),
    "groups that do not divide": (["--train.bn-group", "5"], "--train.bn-group"),
    "groups of one": (["--train.bn-group", "1"], "--train.bn-group"),
    "fewer workers than none": (["--train.workers", "-1"], "--train.workers"),
    "SyncBN on a CPU": (["--train.sync-bn"], "--train.sync-bn"),
    "an optimiser that is not installed": (["--train.optimizer", "apex"], "apex"),
    "a seed below 0": (["--seed", "-1"], "--seed -1"),
    "a huge seed": (["--seed", "18446744073709552"], "--seed 18446744073709552"),
    "a seed of more than 64 bits": (["--seed", str(2**70)], "--seed"),
    "a long name": (["--name", LONG], "300 bytes"),
    "a long name of few letters": (["--name", "ä" * 120], "240 bytes"),
    "the folder above": (["--name", ".."], "--name '..'"),
    "the folder itself": (["--name", "."], "--name '.'"),
    "an absolute name": (["--name", "/elsewhere"], "--name '/elsewhere'"),
    "a name with a folder": (["--name", "a/b"], "--name 'a/b'"),
    "a name above": (["--name", "../a"], "--name '../a'"),
    "an empty name": (["--name", ""], "--name ''"),
    "a name of two lines": (["--name", "a\nb"], "--name 'a\\nb'"),
    "a name that is no text": (["--name", "a\udcff"], "--name"),
    "runs in a long folder": (["--runs", LONG], "300 bytes"),
    "data in a long folder": (["--data-root", LONG], "File name too long"),
    "a first task in a long folder": (["--task0", LONG], "File name too long"),
    "weights of a long name": (["--model.encoder-weights", LONG], "File name too long"),
    "a first task that is not there": (["--task0", "nowhere"], "--task0 nowhere"),
    "a first task of joint training": (["--task0", "nowhere", "--method", "joint"], "joint"),
    "an encoder nobody knows": (["--model.encoder", "resnet19"], "'resnet19'"),
    "no encoder": (["--model.encoder", ""], "--model.encoder ''"),
    "an encoder timm does not know": (["--model.encoder", "tu-resnet19"], "tu-resnet19"),
    "an encoder that cannot be dilated": (["--model.encoder", "vgg11"], "vgg11"),
    "a transformer without stages of its own": (["--model.encoder", "tu-swin_tiny_patch4_window7_224"], "dilated form"),
    "an encoder that says nothing": (["--model.encoder", "tu-vgg11_bn"], "AssertionError"),
    "weights that are not there": (["--model.encoder-weights", "nowhere.pth"], "nowhere.pth"),
    "a class nobody knows": (["--classes", "aeroplane", "zebra"], "'zebra'"),
    "a class twice": (["--classes", "1", "2", "2"], "twice"),
    "the background as a class": (["--classes", "0", "1", "2"], "'0'"),
    "an order of other classes": (["--order", "bird", "bicycle"], "--order"),
    "a class without images": (["--classes", "1", "2", "9"], "chair"),
    "options of the method out of range": (["--method", "plop+replay", "--options.memory", "-1"], "memory"),
    "a share of epochs above 1": (["--method", "plop+s2mf", "--options.fast-share", "2"], "fast-share"),
}
PROTOCOLS = ["17-9", "0-1", "15-x", "3-1", "2", "1-0", "1-1-1", "", "1–1", "01-1", "1-1 "]  # noqa: RUF001


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Away from the folders that must stay as they are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    with plain_machine(folder / "cache"):
        yield write_small_voc(folder / "voc")


def refused(tmp_path: Path, arguments: list[str]) -> str:
    """The one sentence; nothing is written in or beside the folder of runs."""
    before = sorted(tmp_path.rglob("*"))
    outcome = css(*arguments)
    assert outcome.code == 2, outcome.err
    assert sorted(tmp_path.rglob("*")) == before
    return outcome.complaint


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, words = OPTIONS[case]
    assert words in refused(tmp_path, run_arguments(good, tmp_path / "runs", "run", *options))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols(protocol, good, tmp_path):
    assert "protocol" in refused(tmp_path, run_arguments(good, tmp_path / "runs", "run", protocol=protocol))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path: Path) -> None:
    Image.open(path).resize((50, 50)).save(path)


def unknown_id(path: Path) -> None:
    mask = np.array(Image.open(path))
    mask[0, 0] = 21
    Image.fromarray(mask).save(path)


DAMAGES = {
    "no folder": shutil.rmtree,
    "an empty folder": lambda root: (shutil.rmtree(root), root.mkdir()),
    "a file": lambda root: (shutil.rmtree(root), root.write_text("")),
    "no images": lambda root: shutil.rmtree(root / IMAGES),
    "no masks": lambda root: shutil.rmtree(root / MASKS),
    "no list": lambda root: (root / LISTS["test"]).unlink(),
    "an empty list": lambda root: (root / LISTS["train"]).write_text(""),
    "a list that is no text": lambda root: (root / LISTS["train"]).write_bytes(b"\xff\xfe\x00"),
    "a list of what is not there": lambda root: (root / LISTS["train"]).write_text("nothing\n"),
    "a missing image": lambda root: (root / IMAGES / "train_007.jpg").unlink(),
    "a missing mask": lambda root: (root / MASKS / "test_003.png").unlink(),
    "a folder for an image": lambda root: ((root / IMAGES / "train_007.jpg").unlink(),
                                           (root / IMAGES / "train_007.jpg").mkdir()),
    "an empty image": lambda root: (root / IMAGES / "train_007.jpg").write_bytes(b""),
    "a cut image": lambda root: truncate(root / IMAGES / "train_007.jpg"),
    "a cut mask": lambda root: truncate(root / MASKS / "train_007.png"),
    "text for a mask": lambda root: (root / MASKS / "train_007.png").write_text("no picture"),
    "an image of another size": lambda root: resize(root / IMAGES / "test_003.jpg"),
    "an unknown class": lambda root: unknown_id(root / MASKS / "train_007.png"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_data(damage, good, tmp_path):
    root = shutil.copytree(good, tmp_path / "voc")
    DAMAGES[damage](root)
    assert str(root) in refused(tmp_path, run_arguments(root, tmp_path / "runs", "run"))


def weights(path: Path, content: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


WEIGHTS = {
    "nothing": b"", "text": b"no weights", "a list": [torch.zeros(1)], "numbers": {"a": 1}, "a class": {"a": Path("a")},
    "other names": {"a.b": torch.zeros(1)}, "nothing in a dict": {}, "an empty network": {"state_dict": {}},
}  # fmt: skip


@pytest.mark.parametrize("content", WEIGHTS)
def test_weights(content, good, tmp_path):
    path = weights(tmp_path / "weights.pth", WEIGHTS[content])
    arguments = run_arguments(good, tmp_path / "runs", "run", "--model.encoder-weights", path)
    assert str(path) in refused(tmp_path, arguments)


COMMANDS = {
    "report of nothing": ["report", "nowhere"], "report of a long name": ["report", LONG],
    "report without a run": ["report"], "evaluate of nothing": ["evaluate", "nowhere"],
    "evaluate of a long name": ["evaluate", LONG], "predict of nothing": ["predict", "nowhere", "image.jpg"],
    "predict of a long name": ["predict", LONG, "image.jpg"], "analyse of nothing": ["analyse", "nowhere"],
    "a table of nothing": ["table", "nowhere.yaml"], "a table of a long name": ["table", LONG],
    "a data set nobody knows": ["run", "cityscapes", "1-1"], "a command nobody knows": ["learn", "voc"],
    "no protocol": ["run", "voc"], "a preparation nobody knows": ["prepare", "cityscapes"],
    "nothing to prepare": ["prepare", "shapes"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, COMMANDS[command])


RECIPES = {
    "no yaml": b"a: [", "a list": b"- 1", "nothing": b"", "another encoding": "title: Täfelchen".encode("latin-1"),
    "zeros": b"\x00", "no methods": b"dataset: voc\nprotocols: [1-1]\nseeds: [1]\n",
    "an unknown key": b"dataset: voc\nprotocols: [1-1]\nseeds: [1]\nmethods: [plop]\ncolour: red\n",
    "a seed that is a word": b"dataset: voc\nprotocols: [1-1]\nseeds: [one]\nmethods: [plop]\n",
    "a huge seed": b"dataset: voc\nprotocols: [1-1]\nseeds: [18446744073709552]\nmethods: [plop]\n",
    "a method nobody knows": b"dataset: voc\nprotocols: [1-1]\nseeds: [1]\nmethods: [plopp]\n",
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(RECIPES[recipe])
    refused(tmp_path, ["table", path, "--runs", tmp_path / "runs"])
