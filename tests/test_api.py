"""The toolkit from Python, on models of the smallest setting; `css extend` itself is tested in test_extend.py."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small_folder import OPTIONS, write_folder
from small_voc import css as command
from small_voc import plain_machine, read_results

import css
from tasks import InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders `old` (two classes) and `new` (one), and the model `runs/model` of the classes of `old`."""
    root = tmp_path_factory.mktemp("api")
    with plain_machine(root / "cache"):
        write_folder(root / "old", {21: "große Tür", 22: "Wand"}, {1: 21, 2: 22})
        write_folder(root / "new", {3: "bag (old)"}, {3: 3})
        run = ["run", root / "old", "1-1", "--runs", root / "runs", "--name", "model"]
        assert command(*run, *OPTIONS).code == 0
        yield root


@pytest.fixture(scope="module")
def model(place):
    return css.load(place / "runs" / "model")


@pytest.fixture(scope="module")
def larger(place, model):
    return model.extend(place / "new", ["bag (old)"], out=place / "larger", old_test=place / "old")


def test_names(model, larger, place):
    assert model.names == {0: "background", 1: "große Tür", 2: "Wand"}
    assert larger.names == {**model.names, 3: "bag (old)"} and larger.task == 2
    assert css.load(place / "larger", task=0).names == {0: "background", 1: "große Tür"}


def test_every_form_of_an_image_gives_the_same(larger, place, tmp_path):
    path = place / "new" / "images" / "000.png"
    labels, scores = larger.predict(path, scores=True)
    with Image.open(path) as image:
        for form in (str(path), image, np.array(image)):
            assert np.array_equal(larger.predict(form), labels)
    assert np.array_equal(np.array(list(larger.names))[scores.argmax(0)], labels)
    assert labels.dtype == np.uint8 and np.allclose(scores.sum(0), 1, atol=1e-5)


def test_odd_sizes(model):
    image = np.random.default_rng(0).integers(0, 255, (33, 70, 3), dtype=np.uint8)
    labels, scores = model.predict(image, scores=True)
    assert labels.shape == (33, 70) and scores.shape == (3, 33, 70)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)])
def test_another_array_is_refused(image, model):
    with pytest.raises(InputError, match=r"An image is uint8 \(H, W, 3\)"):
        model.predict(image)


def test_evaluate_is_what_the_extension_was_tested_with(larger, place):
    scores = larger.evaluate(place / "old")
    assert scores.pop("bag (old)") is None
    assert scores == read_results(place / "larger")["extends"]["after"]


def test_saved_model_is_the_same(larger, place, tmp_path):
    larger.save(tmp_path / "copy")
    copy, image = css.load(tmp_path / "copy"), place / "old" / "images" / "001.png"
    assert np.array_equal(copy.predict(image, scores=True)[1], larger.predict(image, scores=True)[1])
    with pytest.raises(InputError, match="is there already"):
        larger.save(tmp_path / "copy")


def test_an_earlier_task_cannot_be_extended(place):
    with pytest.raises(InputError, match="Only the last task"):
        css.load(place / "runs" / "model", task=0).extend(place / "new", ["bag (old)"])


def test_train_is_the_command_run(model, place):
    """The same settings name the same run, which is finished."""
    small = {"crop": 64, "batch": 8, "workers": 0, "epochs": 1, "precision": "fp32"}
    encoder = {"encoder": "tu-test_resnet", "encoder_weights": "none"}
    again = css.train(place / "old", "1-1", "frozen+align", train=small, model=encoder, runs=str(place / "runs"),
                      name="model")  # fmt: skip
    assert again.path == model.path and again.names == model.names
    with pytest.raises(InputError, match="unknown setting 'epoch'"):
        css.train(place / "old", "1-1", train={"epoch": 1})


def test_dataset(place):
    data = css.Dataset.open(place / "old")
    assert data.names == {0: "background", 1: "große Tür", 2: "Wand"}
    assert len(data) + len(css.Dataset.open(place / "old", "val")) == 20
    image, mask = data[0]
    assert image.shape == (64, 64, 3) and set(np.unique(mask)) <= {0, 1, 2, 255} and len(list(data)) == len(data)
    with pytest.raises(IndexError):
        data[len(data)]
    with pytest.raises(InputError, match="split 'test' is unknown"):
        css.Dataset.open(place / "old", "test")


def test_import_costs_nothing():
    """Nothing but the standard library is imported, and a wrong name is told."""
    code = """if True:
        import sys, time
        began, before = time.process_time(), set(sys.modules)
        import css
        assert time.process_time() - began < 0.1
        print({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
        assert "load" in dir(css)
        css.lode"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "{'css'}" and "has no attribute 'lode'" in done.stderr
