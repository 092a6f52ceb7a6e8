"""Models in other runtimes give what the network gives; a file that does not is refused."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_voc import css, run_arguments
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch.nn import functional as F

from css.api import load
from css.export import graph as graph_module
from css.export.formats import FORMATS as FORMATS_OF_CSS
from css.export.formats import save_onnx, save_openvino
from css.export.graph import Graph, traced
from css.export.masks import Masked, read_masks, require_quality
from css.export.verify import SIZES, Agreement, compare, drawn, require_agreement, verify
from css.model.dilation import SparseTapConv2d
from css.model.hypercolumn import fit_directions
from css.model.segmenter import Segmenter
from css.predict.exported import SUFFIXES, ExportedNetwork, open_exported
from css.predict.inputs import Item
from css.predict.network import RunNetwork, open_run_network
from css.run.saved import config_of
from css.system.processes import Processes
from tasks import InputError
from tasks.datasets.voc import voc_palette

FORMATS = {"onnx": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}
FACTS = {"class_ids": [0, 3, 1], "class_names": list("abcd"), "colours": [], "size": 96}
pytestmark = pytest.mark.usefixtures("data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    outcome = css(*run_arguments(data, runs, "run", "--method", "finetune", "--order", "bird", "bicycle", "aeroplane"))
    assert outcome.code == 0, outcome.err
    return runs / "run"


@pytest.fixture(scope="module")
def program(run):
    return traced(Graph(open_run_network(run, None).model))


@pytest.fixture
def quick(program, monkeypatch):
    """Tracing takes seconds: the same program for every command."""
    monkeypatch.setattr("css.export.flow.traced", lambda _: program)


@pytest.fixture(scope="module")
def model():
    return random_model("tu-test_resnet")


def random_model(encoder):
    """Weights that make every part of the network count."""
    torch.manual_seed(0)
    made = Segmenter(encoder)
    made.grow([0, 3, 1])
    with torch.no_grad():
        made.train()(made.normalise(torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)))
    return made.eval()


def see_hypercolumns(model):
    """On directions that mix all stages, with classifiers that answer every class somewhere."""
    with torch.no_grad():
        maps = model.column(model.normalise(torch.from_numpy(drawn()[0].transpose(2, 0, 1)[None].copy())))
    rows = torch.cat([F.adaptive_avg_pool2d(m, maps[-1].shape[-2:]) for m in maps], 1).flatten(2)[0].T.double()
    x = F.pad(rows, (0, 1), value=1.0)
    model.see(fit_directions(x.T @ x, model.column_widths, (torch.zeros(0, 256), torch.zeros(0)), 40), hidden=16)
    torch.nn.init.normal_(model.classifiers[0].weight)
    return model.eval()


def needs(kind):
    for package in FORMATS[kind]:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[export]'")


@pytest.mark.parametrize("size", [*SIZES, (40, 500)])
def test_the_graph_is_the_network_as_predictions_see_it(size, model, run):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    scores = RunNetwork(model, config_of(run), [], [], Processes()).scores([image])[0]
    with torch.no_grad():
        logits = Graph(model)(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    assert torch.allclose(logits.softmax(1)[0], torch.from_numpy(scores), atol=1e-5)
    assert any(isinstance(module, SparseTapConv2d) for module in model.modules()), (
        "the network itself keeps its shortcut"
    )


@pytest.mark.parametrize("change", [lambda model: model, see_hypercolumns], ids=["decoder", "hypercolumns"])
def test_weights_in_the_precision_of_the_run_change_nothing(change, run):
    config = config_of(run)
    config = replace(config, train=replace(config.train, precision="bf16"))
    network = RunNetwork(change(random_model("tu-test_resnet")), config, [], [], Processes())
    before = network.scores(drawn()[:1])[0]
    assert (network.cast().scores(drawn()[:1])[0] == before).all()
    kinds = {value.dtype for name, value in network.model.named_parameters() if "conv" in name and value.ndim == 4}
    assert kinds == {torch.bfloat16}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", FORMATS)
def test_command(kind, run, data, tmp_path):
    needs(kind)
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
    assert facts["computed_in"] == facts["check"][-1]["precision"] in outcome.out, "and is told"


@pytest.mark.usefixtures("quick")
def test_precision(run, data, tmp_path):
    needs("openvino")
    photo, path = data / "JPEGImages" / "test_000.jpg", tmp_path / "model.xml"
    assert css("export", run, "--format", "openvino", "--precision", "f32", "--out", path).code == 0
    facts = json.loads(path.with_name("model.xml.json").read_text())
    assert {size["precision"] for size in facts["check"]} == {facts["computed_in"]} == {"f32"}
    other = open_exported(path, "bf16").precision  # f32 where there is no bf16
    for options, precision in (((), "f32"), (("--precision", "bf16"), other)):
        outcome = css("predict", path, photo, "--out", tmp_path / "out", *options)
        assert outcome.code == 0 and f"(computed in {precision})" in outcome.out


@pytest.mark.usefixtures("quick")
def test_int8(run, data, tmp_path):
    needs("openvino")
    pytest.importorskip("nncf", reason="nncf is not installed: pip install -e '.[export]'")
    photos, path = data / "JPEGImages", tmp_path / "model.xml"
    options = ("--images", photos / "test_00[0-3].jpg", "--masks", data / "SegmentationClassAug", "--out", path)
    outcome = css("export", run, "--format", "openvino", "--int8", "--calibrate", photos / "train_00*.jpg", *options)
    assert outcome.code == 0, outcome.err
    facts = json.loads(path.with_name("model.xml.json").read_text())
    assert facts["int8"] and facts["computed_in"].startswith("int8, ") and "mIoU on 4 masks" in outcome.out
    assert all(0.9 < size["same"] < 1 and size["precision"].startswith("int8") for size in facts["check"])
    model, quantised = facts["mean_iou"]["model"], facts["mean_iou"][facts["computed_in"]]
    assert abs(model - quantised) <= 0.5
    outcome = css("predict", path, photos / "test_000.jpg", "--out", tmp_path / "out", "--save", "ids")
    assert outcome.code == 0 and f"computed in {facts['computed_in']}" in outcome.out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--format", "openvino", "--int8"), "--int8 needs --calibrate"),
        (("--format", "openvino", "--int8", "--calibrate", "gone"), "gone does not exist"),
        (("--format", "onnx", "--int8", "--calibrate", "."), "int8 is for --format openvino"),
        (("--format", "onnx", "--precision", "f32"), "--precision f32 is for --format openvino"),
        (("--format", "openvino", "--calibrate", "."), "--calibrate is for --int8"),
        (("--masks", "."), "--masks are those of --images"),
    ],
)
def test_options_that_do_not_go_together(options, word, run, tmp_path):
    outcome = css("export", run, "--out", tmp_path / "model", *options)
    assert outcome.code == 2 and word in outcome.complaint and not list(tmp_path.iterdir())


def test_precision_is_for_openvino(run, data, tmp_path):
    (tmp_path / "model.onnx").write_text("no")
    for model in (run, tmp_path / "model.onnx"):
        outcome = css("predict", model, data / "JPEGImages" / "test_000.jpg", "--precision", "f32")
        assert outcome.code == 2 and "--precision is for OpenVINO" in outcome.complaint


@pytest.mark.parametrize(
    "encoder", ["tu-test_resnet", pytest.param("tu-tf_efficientnet_lite0", marks=pytest.mark.slow)]
)
def test_hypercolumns(encoder, tmp_path):
    """Stages of several sizes are pooled to that of the last one, whatever the image's size."""
    needs("openvino")
    pytest.importorskip("onnxruntime")
    graph = Graph(see_hypercolumns(random_model(encoder)))
    program = traced(graph)
    for kind, save in (("onnx", save_onnx), ("openvino", save_openvino)):
        path = tmp_path / f"model{SUFFIXES[kind]}"
        save(program, path, FACTS)
        exact = [size for size in verify(graph, path, kind, FACTS, drawn())["check"] if size["precision"] == "f32"]
        assert len(exact) == len(SIZES) and all(size["same"] > 0.9999 for size in exact)
        answers = open_exported(path, "f32" if kind == "openvino" else None).scores(drawn()[:1])[0][0].argmax(0)
        assert set(answers.flat) == {0, 1, 2}, "a network with one answer would agree with anything"


@pytest.mark.usefixtures("quick")
def test_torch_from_python(run, tmp_path):
    facts, extra = load(run).export(tmp_path / "model.pt2"), {"css.json": ""}
    assert facts == json.loads((tmp_path / "model.pt2.json").read_text())
    assert [size["same"] for size in facts["check"]] == [1.0] * 3
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["css.json"])["class_names"] == facts["class_names"]
    assert facts["bytes"] == (tmp_path / "model.pt2").stat().st_size
    for name, options, word in (("model.tflite", {}, "model.tflite"), ("a.pt2", {"precision": "f32"}, "openvino")):
        with pytest.raises(InputError, match=word):
            load(run).export(tmp_path / name, **options)


@pytest.mark.parametrize("size", [(48, 64), (96, 32)])
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
def test_fixed_padding_is_that_of_tensorflow(size, kernel, stride, dilation):
    x = torch.randn(1, 4, *size)
    layers = [Conv2dSame(4, 6, kernel, stride, dilation=dilation)]
    if dilation == 1:
        layers.append(AvgPool2dSame(kernel, stride))
    for layer in layers:
        expected = layer(x)
        layer.__class__ = graph_module._FIXED[type(layer)]
        assert torch.equal(layer(x), expected)


def test_a_shortcut_frozen_into_the_graph_is_noticed(model, tmp_path):
    """The negative control: right at the size of the example, wrong at larger ones."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    right, wrong = Graph(model), Graph(model)
    for module in wrong.modules():
        if isinstance(module, torch.nn.Conv2d) and module.dilation != (1, 1):
            module.__class__ = SparseTapConv2d
    save_onnx(traced(wrong), tmp_path / "wrong.onnx", FACTS)
    with pytest.raises(InputError, match=r"wrong\.onnx is not exported: at 321 x 200|at 512 x 512"):
        verify(right, tmp_path / "wrong.onnx", "onnx", FACTS, drawn())


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

    found = compare(ours, theirs, drawn())
    assert [size.same for size in found] == pytest.approx([1 - 1 / height for height, _ in SIZES])
    assert {size.largest_difference for size in found} == {3.0} and found[0].images == 2


def by_brightness(step):
    """Classes 0 and 3 (channels 0 and 1): whether a pixel is brighter than `step`."""

    def logits(pixels):
        bright = (pixels.mean(1) > step).astype(np.float32)
        return np.stack([1 - bright, bright, 0 * bright - 1], 1)

    return ExportedNetwork.of(logits, FACTS, "f32")


def test_mean_iou_on_masks():
    image = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 100, 0).repeat(3, 2)
    mask = np.where(np.arange(100)[None] > 59, 3, 0).astype(np.uint8).repeat(100, 0)
    mask[:, 90:] = 2  # a class that the model does not know: left out, as void is
    mask[:, :10] = 255
    facts = Masked([image], [mask])
    assert facts.mean_iou(by_brightness(59)) == pytest.approx(100, abs=1e-3)
    assert facts.mean_iou(by_brightness(69)) == pytest.approx(100 * (50 / 60 + 20 / 30) / 2, abs=1e-3)
    with pytest.raises(InputError, match="no pixel is of a class"):
        Masked([image], [np.full_like(mask, 7)]).mean_iou(by_brightness(59))


def test_half_a_point_may_be_lost():
    require_quality(60.0, {"int8, f32": 59.5, "int8, bf16": 70.0}, "model.xml")
    for bad in (59.4, float("nan")):
        with pytest.raises(InputError, match=f"{bad:.2f} % in int8, bf16 where the model has 60.00 %"):
            require_quality(60.0, {"int8, f32": 60.0, "int8, bf16": bad}, "model.xml")


def test_masks_that_do_not_fit(tmp_path):
    photo = Item(tmp_path / "a.jpg", "a")
    with pytest.raises(InputError, match=r"a\.png"):
        read_masks(tmp_path, [photo], [np.zeros((4, 5, 3), np.uint8)])
    Image.new("L", (5, 4)).save(tmp_path / "a.png")
    assert read_masks(tmp_path, [photo], [np.zeros((4, 5, 3), np.uint8)]).masks[0].shape == (4, 5)
    with pytest.raises(InputError, match="differ in size"):
        read_masks(tmp_path, [photo], [np.zeros((5, 4, 3), np.uint8)])


def test_nothing_is_left_of_an_export_that_fails(run, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("model.pt2 is not exported: no.")

    monkeypatch.setattr("css.export.flow.verify", fail)
    monkeypatch.setattr("css.export.flow.traced", lambda _: None)
    monkeypatch.setitem(FORMATS_OF_CSS, "torch", lambda _, path, __: path.write_text("half"))
    outcome = css("export", run, "--format", "torch", "--out", tmp_path / "out" / "model")
    assert outcome.code == 2 and "is not exported" in outcome.complaint and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_runtime_that_is_not_installed(kind, run, tmp_path, monkeypatch):
    monkeypatch.setattr("css.export.flow.traced", lambda _: None)
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
