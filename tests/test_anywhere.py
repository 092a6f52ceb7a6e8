"""css in a folder that holds modules of the user's own, some of them with our names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_voc import css

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "css" / "__main__.py"
METHOD = """
from css.method import Method, plain_losses

class Mine(Method):
    segmentation_only = True
    def losses(self, task, forward, teacher, images, labels):
        return plain_losses(forward, images, labels)
"""
DATA = """
import numpy as np

class Stripes:
    name, class_names = "stripes", ["background", "left", "right"]
    def __init__(self, root):
        self.root = root
    def presence(self, split):
        return np.isin(np.arange(256), [0, 1, 2])[None].repeat(4, 0)
    def load(self, split, index):
        mask = np.repeat([[0, 1, 2, 0]], 4, 0).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        return np.stack([mask * 100] * 3, 2), mask
    def image_id(self, split, index):
        return f"{split}{index}"
    def fingerprint(self):
        return "stripes"

class Labels(Stripes):
    label_kind = "images"

class Unfinished:
    name, class_names = "unfinished", ["background", "a"]
    def __init__(self, root):
        pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the user's modules in it."""
    for name in ("css.py", "tasks.py", "plop_baseline.py"):
        (tmp_path / name).write_text("raise SystemExit('this is the user's own')\n")
    (tmp_path / "my_method.py").write_text(METHOD)
    (tmp_path / "my_data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_modules_of_our_names_are_not_in_the_way(folder):
    """And the user's method and data set are found there."""
    command = [
        sys.executable, PROGRAM, "my_data:Stripes", "1-1", "--method", "my_method:Mine", "--model.encoder",
        "tu-test_resnet", "--model.encoder-weights", "none", "--train.crop", "32", "--train.epochs", "1",
        "--train.batch", "2", "--train.bn-group", "None", "--train.workers", "1", "--runs", "runs",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    outcome = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "| left" in outcome.stdout and (folder / "runs" / "my_data.Stripes-1-1-overlap-my_method.Mine-s0").is_dir()


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("my_data:Unfinished", "no presence and no load and no image_id and no fingerprint"),
        ("my_data:Nothing", "cannot be imported"),
        ("nowhere.to.be:Found", "cannot be imported"),
        ("..my_data:Stripes", "cannot be imported"),
        ("json:dumps", "is no class"),
        ("json:JSONDecoder", "the folder that --data-root names"),
        ("vco", "did you mean voc?"),
        ("cifar10", "did you mean cifar100?"),
    ],
)
def test_data_set_that_is_none(dataset, words, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder / "sub")
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    outcome = css("run", dataset, "1-1", "--method", "finetune", "--runs", folder / "runs")
    assert outcome.code == 2 and words in outcome.complaint and "\n" not in outcome.complaint.strip()
    assert not (folder / "runs").exists()


def test_a_data_set_of_ones_own_says_what_its_labels_are(folder, monkeypatch):
    from css.kinds.choice import kind_of

    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    assert kind_of("my_data:Stripes").has_layouts and not kind_of("my_data:Labels").has_layouts


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["--version"], ["run", "shapes", "15-1", "--no-such-option", "1"], ["run", "vco", "15-1"],
     ["run", "shapes", "15-1", "--method", "plp"], ["run", "shapes", "17-9"],
     ["run", "voc", "15-1", "--data-root", "nowhere"]],
)  # fmt: skip
def test_pytorch_is_not_imported_for_it(arguments, tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from css.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'albumentations', 'matplotlib', 'segmentation_models_pytorch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


def test_a_closed_pipe_is_no_traceback():
    """css --help | head -1, whose output Python keeps until its end."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    )
    process.stdout.close()
    said, code = process.stderr.read(), process.wait(timeout=60)
    assert not said and code in (0, 1)
