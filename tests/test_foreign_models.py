"""Networks of torchvision and smp as what is extended: random weights with the real names of parameters."""

import json

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision.models.segmentation as tv
from PIL import Image
from safetensors.torch import save_file
from small_folder import write_folder
from small_voc import css as command
from small_voc import plain_machine, read_results

import css
from css.extend.adopt import adopt
from css.extend.request import Request
from css.model.foreign import ARCHITECTURES, Foreign
from tasks.datasets.shapes import render

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
NAMES = ["--names", "a", "b", "c"]


def settled(network: torch.nn.Module) -> torch.nn.Module:
    """With running statistics of scenes such as it will see."""
    scenes = torch.stack([torch.from_numpy(render(64, 0, "test", index)[0]) for index in range(8)]).permute(0, 3, 1, 2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()((scenes / 255 - IMAGENET[0]) / IMAGENET[1])
    return network.eval()


def torchvision_network(name):
    torch.manual_seed(0)
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    return settled(getattr(tv, name)(weights=None, weights_backbone=None, num_classes=21, **options))


def smp_network(kind=smp.DeepLabV3, **options):
    torch.manual_seed(0)
    return settled(kind("resnet18", encoder_weights=None, classes=4, **options))


def answers(network, path) -> np.ndarray:
    """What the network itself says of an image whose sides 16 divides."""
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        output = network((pixels - IMAGENET[0]) / IMAGENET[1])
    return (output["out"] if isinstance(output, dict) else output)[0].argmax(0).numpy()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("foreign")
    with plain_machine(root / "cache"):
        yield write_folder(root / "new", {3: "hat"}, {3: 3}, count=8)


def extend(model, data, *options):
    return command("extend", model, "--data", data, "--classes", "hat", "--epochs", "1", *options)


def require_old_answers(model, network, data):
    """Old answers on every pixel where the new class is not chosen; and it is chosen somewhere, but not everywhere."""
    new, kept = [], []
    for path in sorted((data / "images").iterdir()):
        labels, old = model.predict(path), answers(network, path)
        new.append(labels == max(model.names))
        kept.append(labels[~new[-1]] == old[~new[-1]])
    assert np.concatenate(kept).mean() > 0.9999 and not np.all(new)


def test_torchvision_deeplab_keeps_its_answers(data, tmp_path):
    network = torchvision_network("deeplabv3_resnet50")
    network.classifier[4].weight.data *= 10  # as sure of its answers as a trained one
    torch.save(network.state_dict(), tmp_path / "deeplab.pth")
    outcome = extend(tmp_path / "deeplab.pth", data, "--architecture", "deeplabv3_resnet50", "--crop", "64",
                     "--out", tmp_path / "larger")  # fmt: skip
    assert outcome.code == 0, outcome.err
    model = css.load(tmp_path / "larger")
    assert model.names[20] == "class 20" and model.names[21] == "hat"
    require_old_answers(model, network, data)
    assert css.load(tmp_path / "larger.model").names == {c: model.names[c] for c in range(21)}


@pytest.mark.parametrize("form", ["folder", "state dict"])
def test_smp_deeplab_keeps_its_answers(form, data, tmp_path):
    network, model = smp_network(), tmp_path / "theirs"
    network.save_pretrained(model)
    options = [*NAMES, "--crop", "64", "--out", tmp_path / "larger"]
    if form == "state dict":
        options += ["--architecture", model / "config.json"]
        model = tmp_path / "theirs.safetensors"
        save_file(network.state_dict(), model)
    assert extend(model, data, *options).code == 0
    larger = css.load(tmp_path / "larger")
    assert list(larger.names.values()) == ["background", "a", "b", "c", "hat"]
    require_old_answers(larger, network, data)
    assert read_results(tmp_path / "larger")["tasks"][1]["iou"][4] is not None
    assert command("report", tmp_path / "larger").code == command("evaluate", tmp_path / "larger").code == 0


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "resnet101" not in name])
def test_features_and_classifier_are_the_network(name):
    network, images = torchvision_network(name), torch.randn(1, 3, 64, 80)
    ours = Foreign(f"torchvision:{name}")
    ours.adopt(network.state_dict(), "state")
    with torch.no_grad():
        expected, found = network(images)["out"], ours.eval()(images).logits
    found = torch.nn.functional.interpolate(found, images.shape[2:], mode="bilinear", align_corners=False)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    with torch.no_grad():
        next(ours.classifiers[0].parameters())[0] += 1
        assert (ours(images).logits - expected[:, :, :1, :1]).abs().max() > 1e-2, "the comparison can fail"


@pytest.mark.parametrize("kind", [smp.DeepLabV3Plus, smp.FPN])
def test_other_networks_of_smp(kind, tmp_path):
    network, images = smp_network(kind), torch.randn(1, 3, 64, 96)
    network.save_pretrained(tmp_path)
    ours = Foreign(f"smp:{(tmp_path / 'config.json').read_text()}")
    ours.adopt(network.state_dict(), "state")
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images).logits, network(images), atol=1e-4)


def test_extended_again(data, tmp_path):
    network = smp_network()
    network.save_pretrained(tmp_path / "theirs")
    assert extend(tmp_path / "theirs", data, "--crop", "64", "--out", tmp_path / "one").code == 0
    more = write_folder(tmp_path / "more", {1: "bag"}, {1: 1}, count=8)
    outcome = command("extend", tmp_path / "one", "--data", more, "--classes", "bag", "--out", tmp_path / "two")
    assert outcome.code == 0, outcome.err
    assert list(css.load(tmp_path / "two").names.values())[-2:] == ["hat", "bag"]


class Mischief:
    """What a pickle would run."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("state", [], "say what they are of with --architecture"),
        ("state", ["--architecture", "deeplabv4"], "--architecture 'deeplabv4' is unknown"),
        ("state", ["--architecture", "fcn_resnet50"], "so it is not of the architecture"),
        ("pickle", ["--architecture", "fcn_resnet50"], "holds more than tensors"),
        ("text", ["--architecture", "fcn_resnet50"], "holds more than tensors, or is damaged"),
        ("smp", ["--names", "a"], "--names must be 3 different names"),
        ("smp", ["--epochs", "0"], "--epochs must be at least 1"),
        ("smp", ["--old-test", "{data}"], "has no class of"),
        ("smp", ["--method", "plop"], "--method plop is for networks of css run; choose frozen or finetune"),
        ("unet", [], "only 1x1 convolutions"),
        ("config", [], "names no network of smp"),
        ("unknown", [], "smp cannot make the network 'Nothing'"),
    ],
)
def test_bad_input_is_one_sentence(content, options, says, data, tmp_path, capfd):
    model = tmp_path / "model.pth"
    if content in ("smp", "unet", "config", "unknown"):
        smp_network(smp.Unet if content == "unet" else smp.DeepLabV3).save_pretrained(model)
    if content in ("config", "unknown"):
        (model / "config.json").write_text(json.dumps({"_model_class": "Nothing"} if content == "unknown" else {}))
    if content in ("state", "pickle"):
        torch.save({"a": torch.ones(1)} if content == "state" else {"a": Mischief()}, model)
    if content == "text":
        model.write_text("no network")
    options = [option.format(data=data) for option in options]
    outcome = extend(model, data, *options, "--out", tmp_path / "out")
    assert outcome.code == 2 and says in outcome.complaint
    assert not list(tmp_path.glob("out*")) and "run\n" not in capfd.readouterr().out


def test_a_folder_in_the_way_stays(data, tmp_path):
    smp_network().save_pretrained(tmp_path / "theirs")
    (tmp_path / "out.model").mkdir()
    (tmp_path / "out.model" / "precious.txt").write_text("x")
    outcome = extend(tmp_path / "theirs", data, "--out", tmp_path / "out")
    assert outcome.code == 2 and "out.model is in the way" in outcome.complaint
    assert (tmp_path / "out.model" / "precious.txt").exists() and not (tmp_path / "out").exists()


def test_adopt_is_a_run_folder(tmp_path):
    smp_network().save_pretrained(tmp_path / "theirs")
    adopt(tmp_path / "theirs", None, ["a", "b", "c"], tmp_path / "run")
    assert css.load(tmp_path / "run").names == {0: "background", 1: "a", 2: "b", 3: "c"}
    assert Request(tmp_path / "run", "data", ("hat",)).folder == tmp_path / "run+hat"
