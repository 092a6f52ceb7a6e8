"""Pretrained weights from local files, in small files of the same format as published ones."""

import pickle
import warnings

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from css.model import encoder_weights
from css.model.encoder_weights import load_encoder_weights
from css.model.segmenter import Segmenter
from css.system.tensors import save_tensors
from tasks import InputError

NAME = "resnet18"


@pytest.fixture
def published():
    """A state dict with torchvision's names, the classification layer included; no number is an initial one."""
    torch.manual_seed(1)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {name: value + (0.5 if value.is_floating_point() else 1) for name, value in state.items()}


@pytest.fixture
def encoder():
    return get_encoder(NAME, weights=None)


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("with_fc", [True, False], ids=["fc", "no fc"])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_torchvision_names(tmp_path, published, encoder, file, with_fc):
    state = {name: value for name, value in published.items() if with_fc or not name.startswith("fc.")}
    assert not torch.equal(encoder.state_dict()["layer4.1.bn2.running_var"], state["layer4.1.bn2.running_var"])
    load_encoder_weights(encoder, NAME, write(tmp_path / file, state))
    loaded = encoder.state_dict()
    assert loaded.keys() == published.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, published[name]) for name, value in loaded.items())


def is_loaded(encoder, published):
    loaded = encoder.state_dict()
    return all(torch.equal(loaded[name], value) for name, value in published.items() if name in loaded)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "module.encoder_q.", "model.encoder."])
def test_prefixes(tmp_path, published, encoder, prefix):
    state = {f"{prefix}{name}": value for name, value in published.items()}
    load_encoder_weights(encoder, NAME, write(tmp_path / "a.safetensors", state))
    assert is_loaded(encoder, published)


def test_parts_beside_the_encoder_and_heads_are_left_out(tmp_path, published, encoder):
    state = {f"backbone.{name}": value for name, value in published.items() if not name.startswith("fc.")}
    state |= {"decoder.conv1.weight": torch.ones(3), "classifier.weight": torch.ones(2), "backbone.head.0.bias": state[
        "backbone.bn1.bias"].clone()}  # fmt: skip
    load_encoder_weights(encoder, NAME, write(tmp_path / "a.safetensors", state))
    assert is_loaded(encoder, published)


@pytest.mark.parametrize("entries", [("state_dict",), ("model",), ("model", "state_dict"), ("encoder",)])
def test_checkpoints_of_training_programs(tmp_path, published, encoder, entries):
    state = {f"module.{name}": value for name, value in published.items()}
    for entry in entries:
        state = {"epoch": 3, entry: state, "optimizer": {"state": {0: torch.ones(1)}, "lr": 0.1}}
    load_encoder_weights(encoder, NAME, write(tmp_path / "a.pth", state))
    assert is_loaded(encoder, published)


def test_two_networks_in_one_file(tmp_path, published, encoder):
    state = {f"{part}.{name}": value.clone() for part in ("student", "teacher") for name, value in published.items()}
    refuse(encoder, write(tmp_path / "a.safetensors", state), "several networks of this kind (student.... and teacher")


def test_weights_of_a_saved_task(tmp_path):
    """What a run has learnt is a start for another one."""
    torch.manual_seed(0)
    model = Segmenter("tu-test_resnet")
    model.grow([0, 1])
    save_tensors(tmp_path / "model.safetensors", {f"model.{name}": v for name, v in model.state_dict().items()})
    other = Segmenter("tu-test_resnet", tmp_path / "model.safetensors")
    assert is_loaded(other.encoder, model.encoder.state_dict())
    assert not torch.equal(other.decoder.conv.weight, model.decoder.conv.weight)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "regnetx_002", "mnasnet_small"])
def test_names_of_timm(tmp_path, name):
    """A file of timm's whole network, head and all: every filter of the encoder is the one at its place there."""
    torch.manual_seed(0)
    state = timm.create_model(name).state_dict()
    encoder = get_encoder(f"tu-{name}", weights=None)
    load_encoder_weights(encoder, f"tu-{name}", write(tmp_path / "a.safetensors", state))
    filters = [value for value in encoder.state_dict().values() if value.dim() == 4]
    theirs = [value for value in state.values() if value.dim() == 4][: len(filters)]
    assert len(filters) > 5 and all(torch.equal(*pair) for pair in zip(filters, theirs, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(tmp_path, published, encoder, value):
    published["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    says = "not finite in 1 tensors (first: layer2.0.conv1.weight)"
    refuse(encoder, write(tmp_path / "a.safetensors", published), says)


def test_a_deeper_network_of_the_kind_and_integers_are_refused(tmp_path, published, encoder):
    deeper = {**published, "layer3.2.conv1.weight": torch.zeros(1)}
    refuse(encoder, write(tmp_path / "a.safetensors", deeper), "first: layer3.2.conv1.weight")
    quantised = {**published, "layer1.0.conv1.weight": published["layer1.0.conv1.weight"].to(torch.int8)}
    refuse(encoder, write(tmp_path / "b.safetensors", quantised), "first: layer1.0.conv1.weight")


def test_counters_may_be_absent(tmp_path, published, encoder):
    state = {name: value for name, value in published.items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(published)
    load_encoder_weights(encoder, NAME, write(tmp_path / "weights.safetensors", state))
    assert torch.equal(encoder.state_dict()["conv1.weight"], published["conv1.weight"])


def test_half_precision_file_gives_float32(tmp_path, published, encoder):
    state = {name: value.half() if value.is_floating_point() else value for name, value in published.items()}
    load_encoder_weights(encoder, NAME, write(tmp_path / "weights.safetensors", state))
    assert encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"].float())


def refuse(encoder, path, says):
    before = encoder.conv1.weight.clone()
    with pytest.raises(InputError) as caught:
        load_encoder_weights(encoder, NAME, path)
    message = str(caught.value)
    assert str(path) in message and says in message and "\n" not in message
    assert torch.equal(encoder.conv1.weight, before)


def test_one_tensor_missing_unknown_or_of_another_shape(tmp_path, published, encoder):
    missing = {name: value for name, value in published.items() if name != "layer3.0.conv2.weight"}
    refuse(encoder, write(tmp_path / "a.safetensors", missing), "1 tensors are missing and 0 are unknown")
    unknown = {**published, "layer5.weight": torch.zeros(1)}
    refuse(encoder, write(tmp_path / "b.safetensors", unknown), "first: layer5.weight")
    other = {**published, "conv1.weight": torch.zeros(64, 1, 7, 7)}
    refuse(encoder, write(tmp_path / "c.safetensors", other), "first: conv1.weight")


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_another_architecture(tmp_path, encoder, file):
    tiny = get_encoder("tu-test_resnet", weights=None).state_dict()
    refuse(encoder, write(tmp_path / file, tiny), "weights of the same architecture")


@pytest.mark.parametrize("length", [0, 1000, 100_000])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_truncated_file(tmp_path, published, encoder, file, length):
    path = write(tmp_path / file, {"conv1.weight": published["conv1.weight"], "fc.weight": published["fc.weight"]})
    path.write_bytes(path.read_bytes()[:length])
    refuse(encoder, path, "cannot be read")


class Marker:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_object_in_a_pickle_is_refused_and_never_run(tmp_path, encoder):
    trace = tmp_path / "trace"
    zipped = write(tmp_path / "weights.pth", {"conv1.weight": torch.zeros(1), "extra": Marker(trace)})
    refuse(encoder, zipped, "holds more than tensors")
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Marker(trace)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks on the protocol of the pickle
        refuse(encoder, plain, "holds more than tensors")
    assert not trace.exists()
    pickle.loads(plain.read_bytes()).close()
    assert trace.exists()  # the object would have been able to


@pytest.mark.parametrize(
    "state",
    [{"model": {"conv1.weight": 1}}, [torch.zeros(1)], torch.zeros(1), {0: torch.zeros(1)},
     {"a": torch.zeros(1), "b": 3}],
)  # fmt: skip
def test_not_a_plain_dict_of_tensors(tmp_path, encoder, state):
    refuse(encoder, write(tmp_path / "weights.pth", state), "plain dict of tensors")


def test_absent_file_and_folder(tmp_path, encoder):
    refuse(encoder, tmp_path / "nothing.safetensors", "is not a file")
    refuse(encoder, tmp_path, "is not a file")


def test_hub_that_cannot_be_reached(monkeypatch, encoder):
    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(encoder_weights, "get_encoder", unreachable)
    with pytest.raises(InputError, match=r"resnet18 cannot be fetched.*--model.encoder-weights PATH or none"):
        load_encoder_weights(encoder, NAME, "imagenet")
