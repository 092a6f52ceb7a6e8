"""Models in other runtimes give what the network gives; a file that does not is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_voc import css, run_arguments

from css.export.formats import FORMATS as FORMATS_OF_CSS
from css.export.formats import save_onnx, save_torch
from css.export.graph import Graph, traced
from css.export.verify import SIZES, Agreement, compare, photographs, require_agreement, verify
from css.model.dilation import SparseTapConv2d
from css.model.segmenter import Segmenter
from css.predict.exported import SUFFIXES, open_exported
from css.predict.network import RunNetwork
from css.run.saved import config_of
from css.system.processes import Processes
from tasks import InputError
from tasks.datasets.voc import voc_palette

pytestmark = pytest.mark.usefixtures("data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    outcome = css(*run_arguments(data, runs, "run", "--method", "finetune", "--order", "bird", "bicycle", "aeroplane"))
    assert outcome.code == 0, outcome.err
    return runs / "run"


@pytest.fixture(scope="module")
def model():
    """Weights that make every part of the network count."""
    torch.manual_seed(0)
    made = Segmenter("tu-test_resnet")
    made.grow([0, 3, 1])
    with torch.no_grad():
        made.train()(made.normalise(torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)))
    return made.eval()


@pytest.mark.parametrize("size", [*SIZES, (40, 500)])
def test_the_graph_is_the_network_as_predictions_see_it(size, model, run):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    scores = RunNetwork(model, config_of(run), [], [], Processes()).scores(image)
    with torch.no_grad():
        logits = Graph(model)(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    assert torch.allclose(logits.softmax(1)[0], torch.from_numpy(scores), atol=1e-5)
    assert any(isinstance(module, SparseTapConv2d) for module in model.modules()), (
        "the network itself keeps its shortcut"
    )


FORMATS = {"onnx": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}


@pytest.mark.parametrize("kind", FORMATS)
def test_command(kind, run, data, tmp_path):
    for package in FORMATS[kind]:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[export]'")
    photo = data / "JPEGImages" / "test_000.jpg"
    outcome = css("export", run, "--format", kind, "--out", tmp_path / "out" / "model", "--images", photo)
    assert outcome.code == 0, outcome.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    suffix = SUFFIXES[kind]
    assert names == {f"model{suffix}", f"model{suffix}.json"} | ({"model.bin"} if kind == "openvino" else set())
    facts = json.loads((tmp_path / "out" / f"model{suffix}.json").read_text())
    exact = [size for size in facts["check"] if size["precision"] == "f32"]
    assert [(size["height"], size["width"]) for size in exact] == list(SIZES)
    assert all(size["same"] > 0.9999 and size["images"] == 1 for size in exact)
    assert facts["class_ids"] == [0, 3, 2, 1] and facts["class_names"][3] == "bird" and facts["size"] == 64
    assert facts["colours"] == voc_palette()[:21].tolist()
    masks = []
    for model, place in ((run, "a"), (tmp_path / "out" / f"model{suffix}", "b")):
        outcome = css("predict", model, photo, "--out", tmp_path / place, "--save", "ids", "--size", "full")
        assert outcome.code == 0, outcome.err
        masks.append(np.array(Image.open(tmp_path / place / "test_000_ids.png")))
    assert (masks[0] == masks[1]).mean() > 0.95, "OpenVINO's own precision is bf16 on some machines"


@pytest.mark.slow
def test_torch(tmp_path):
    torch.manual_seed(0)
    model = Segmenter("resnet18")
    model.grow([0, 3, 1])
    graph = Graph(model.eval())
    save_torch(traced(graph), tmp_path / "model.pt2", {"class_names": ["a"]})
    found = verify(graph, tmp_path / "model.pt2", "torch", photographs([]))
    assert [size["same"] for size in found] == [1.0] * 3
    extra = {"css.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["css.json"]) == {"class_names": ["a"]}


def test_a_network_that_torch_cannot_save(run, tmp_path):
    """The paddings of the tiny network are computed as TensorFlow does."""
    outcome = css("export", run, "--format", "torch", "--out", tmp_path / "model")
    assert outcome.code == 2 and "--format onnx" in outcome.complaint and not list(tmp_path.iterdir())


def test_a_shortcut_frozen_into_the_graph_is_noticed(model, tmp_path):
    """The negative control: right at the size of the example, wrong at larger ones."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    right, wrong = Graph(model), Graph(model)
    for module in wrong.modules():
        if isinstance(module, torch.nn.Conv2d) and module.dilation != (1, 1):
            module.__class__ = SparseTapConv2d
    save_onnx(
        traced(wrong),
        tmp_path / "wrong.onnx",
        {"class_ids": [0, 3, 1], "class_names": list("abcd"), "colours": [], "size": 96},
    )
    with pytest.raises(InputError, match=r"wrong\.onnx is not exported: at 321 x 200|at 512 x 512"):
        verify(right, tmp_path / "wrong.onnx", "onnx", photographs([]))


def test_a_few_wrong_pixels_are_too_many():
    good = Agreement(96, 96, 2, 0.9995, 0.01)
    require_agreement([good], "model.onnx")
    with pytest.raises(InputError, match=r"99\.800 %"):
        require_agreement([good, Agreement(96, 96, 2, 0.998, 0.01)], "model.onnx")
    with pytest.raises(InputError, match="nan"):
        require_agreement([Agreement(96, 96, 2, 1.0, float("nan"))], "model.onnx")


def test_compare_counts_pixels():
    def ours(pixels):
        return np.stack([np.zeros_like(pixels[:, 0], float), np.ones_like(pixels[:, 0], float)], 1)

    def theirs(pixels):
        logits = ours(pixels)
        logits[:, 0, 0] = 3
        return logits

    found = compare(ours, theirs, photographs([]))
    assert [size.same for size in found] == pytest.approx([1 - 1 / height for height, _ in SIZES])
    assert {size.largest_difference for size in found} == {3.0} and found[0].images == 2


def test_nothing_is_left_of_an_export_that_fails(run, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("model.pt2 is not exported: no.")

    monkeypatch.setattr("css.cli.export.verify", fail)
    monkeypatch.setattr("css.cli.export.traced", lambda _: None)
    monkeypatch.setitem(FORMATS_OF_CSS, "torch", lambda _, path, __: path.write_text("half"))
    outcome = css("export", run, "--format", "torch", "--out", tmp_path / "out" / "model")
    assert outcome.code == 2 and "is not exported" in outcome.complaint and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_runtime_that_is_not_installed(kind, run, tmp_path, monkeypatch):
    monkeypatch.setattr("css.cli.export.traced", lambda _: None)
    for name in ("onnx", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = css("export", run, "--format", kind, "--out", tmp_path / "model")
    assert outcome.code == 2 and "pip install 'continual-segmentation[export]'" in outcome.complaint
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_export(run, data, tmp_path):
    photo = data / "JPEGImages" / "test_000.jpg"
    (tmp_path / "broken.onnx").write_text("no")
    (tmp_path / "model.pt2").write_text("no")
    for name, word in (("gone.onnx", "does not exist"), ("broken.onnx", "broken.onnx"), ("model.pt2", "no run folder")):
        if name == "broken.onnx":
            pytest.importorskip("onnxruntime")
        outcome = css("predict", tmp_path / name, photo, "--out", tmp_path / "out")
        assert outcome.code == 2 and word in outcome.complaint and not (tmp_path / "out").exists()
    outcome = css("export", run, "--images", tmp_path / "gone.jpg", "--out", tmp_path / "model")
    assert outcome.code == 2 and "gone.jpg" in outcome.complaint


def test_an_onnx_file_of_others(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "other", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="not made by css export"):
        open_exported(tmp_path / "other.onnx")
