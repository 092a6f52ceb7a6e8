"""The optimiser's settings and its state as named tensors."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from css.config.settings import Rates, RunConfig, TrainConfig
from css.model.batchnorm import hold
from css.system.tensors import load_tensors, save_tensors
from css.training.checkpoint import optimizer_tensors, restore_optimizer
from css.training.optimizer import make_optimizer
from tasks import InputError


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    return model.to(memory_format=torch.channels_last)


def step(model, optimizer, seed=0):
    optimizer.zero_grad()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    optimizer.step()


def test_settings():
    train = TrainConfig(momentum=0.8, weight_decay=0.01)
    model = net()
    model[0].bias.requires_grad_(False)
    optimizer = make_optimizer(train, model, 0.3)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.3, 0.8, 0.01, True)
    expected = [parameter for parameter in model.parameters() if parameter is not model[0].bias]
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in expected}
    assert len(group["params"]) == len(expected) == 5


def test_without_momentum_there_is_no_state():
    model = net()
    optimizer = make_optimizer(TrainConfig(momentum=0), model, 0.1)
    step(model, optimizer)
    assert optimizer_tensors(optimizer, model) == {}


def test_apex_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", None)
    monkeypatch.delitem(sys.modules, "apex.optimizers", raising=False)
    with pytest.raises(InputError, match=r"--train.optimizer apex needs NVIDIA's apex.*leave the option out"):
        make_optimizer(TrainConfig(optimizer="apex"), net(), 0.1)


def test_unrelated_package_of_the_same_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "apex.optimizers", raising=False)
    with pytest.raises(InputError, match="unrelated"):
        make_optimizer(TrainConfig(optimizer="apex"), net(), 0.1)


def test_apex_gets_the_same_settings(monkeypatch):
    class FusedSGD:
        def __init__(self, groups, **settings):
            self.settings = settings | {"count": sum(len(group["params"]) for group in groups)}

    monkeypatch.setitem(sys.modules, "apex", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "apex.optimizers", SimpleNamespace(FusedSGD=FusedSGD))
    optimizer = make_optimizer(TrainConfig(optimizer="apex"), net(), 0.1)
    assert isinstance(optimizer, FusedSGD)
    assert optimizer.settings == {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True, "count": 6}


def test_momentum_comes_back_in_the_layout_of_the_parameters(tmp_path):
    model = net()
    optimizer = make_optimizer(TrainConfig(), model, 0.1)
    step(model, optimizer)
    tensors = optimizer_tensors(optimizer, model)
    assert set(tensors) == {f"optimizer.{name}.momentum_buffer" for name, _ in model.named_parameters()}
    save_tensors(tmp_path / "state.safetensors", tensors)
    loaded, _ = load_tensors(tmp_path / "state.safetensors")
    weight = model[0].weight
    assert loaded["optimizer.0.weight.momentum_buffer"].stride() != weight.stride()  # the file has one layout only
    other = make_optimizer(TrainConfig(), model, 0.1)
    restore_optimizer(other, model, loaded | {"model.0.weight": torch.zeros(1)})
    for parameter in model.parameters():
        ours, theirs = other.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(ours, theirs) and ours.stride() == parameter.stride()


def test_next_step_is_that_of_the_first_optimizer():
    first, second = net(), net()
    optimizer = make_optimizer(TrainConfig(), first, 0.1)
    step(first, optimizer)
    second.load_state_dict(first.state_dict())
    resumed, fresh = make_optimizer(TrainConfig(), second, 0.1), net()
    fresh.load_state_dict(first.state_dict())
    restore_optimizer(resumed, second, optimizer_tensors(optimizer, first))
    for model, one in ((first, optimizer), (second, resumed), (fresh, make_optimizer(TrainConfig(), fresh, 0.1))):
        step(model, one, seed=1)
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, fresh[0].weight)


def stepped_twice(spoil=lambda model, optimizer: None):
    """A first step, something done to the optimiser's memory, a second step."""
    model = net()
    optimizer = make_optimizer(TrainConfig(), model, 0.1)
    step(model, optimizer)
    spoil(model, optimizer)
    other = make_optimizer(TrainConfig(), model, 0.1)
    other.state.update(optimizer.state)
    return model, other


def contiguous_momentum(model, optimizer):
    state = optimizer.state[model[0].weight]
    state["momentum_buffer"] = state["momentum_buffer"].contiguous()
    assert state["momentum_buffer"].stride() != model[0].weight.stride()


def test_momentum_in_another_layout_is_no_silent_error():
    model, optimizer = stepped_twice(contiguous_momentum)
    before = model[0].weight.clone()
    with pytest.raises(RuntimeError, match=r"\(8, 3, 3, 3\).*momentum_buffer.*a fused step would be wrong"):
        step(model, optimizer, seed=1)
    assert torch.equal(model[0].weight, before)


def test_gradients_in_another_layout_are_no_silent_error():
    model = net()
    optimizer = make_optimizer(TrainConfig(), model, 0.1)
    model[0].weight.grad = torch.zeros(8, 3, 3, 3)
    with pytest.raises(RuntimeError, match="its gradient"):
        optimizer.step()


def test_without_the_check_the_update_is_wrong(monkeypatch):
    """The negative control: PyTorch takes the numbers in the order of memory."""
    expected, optimizer = stepped_twice()
    step(expected, optimizer, seed=1)
    monkeypatch.setattr("css.training.optimizer.require_one_layout", lambda optimizer: None)
    wrong, optimizer = stepped_twice(contiguous_momentum)
    step(wrong, optimizer, seed=1)
    assert not torch.allclose(expected[0].weight, wrong[0].weight, atol=1e-4)
    assert torch.equal(expected[2].weight, wrong[2].weight)


def test_the_check_costs_one_step(monkeypatch):
    calls = []
    monkeypatch.setattr("css.training.optimizer.require_one_layout", calls.append)
    model = net()
    optimizer, hooked = make_optimizer(TrainConfig(), model, 0.1), []
    optimizer.register_step_post_hook(lambda *_: hooked.append(1))  # as projections do
    for seed in range(3):
        step(model, optimizer, seed)
    assert calls == [optimizer, optimizer] and len(hooked) == 3  # before and after the first


def test_dimensions_of_size_one_have_no_layout():
    """A depthwise weight (C, 1, 3, 3) is contiguous and channels last at once, with other strides."""
    model = nn.Conv2d(4, 4, 3, groups=4).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(TrainConfig(), model, 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones(parameter.shape)
    assert model.weight.grad.stride() != model.weight.stride()
    before = model.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.weight, (before - 0.1 * 1.9 * (1 + 1e-4 * before)).detach())


class Parts(nn.Module):
    """The names of a Segmenter's parameters."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, 4, 1)
        self.classifiers = nn.ModuleList(nn.Conv2d(4, 1, 1) for _ in range(12))
        self.head = nn.Conv2d(4, 1, 1)


def rates_of(optimizer, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}


def test_rates_of_parts():
    """The longest beginning of a name counts, and classifier 1 is not classifier 11."""
    model, factors = Parts(), Rates(encoder=0.1, decoder=0.5, old_classifiers=0.0, new_classifier=10.0)
    found = rates_of(make_optimizer(TrainConfig(), model, 0.01, factors.by_prefix(1)), model)
    assert len(found) == len(list(model.parameters()))
    for name, rate in found.items():
        wanted = {"encoder": 0.001, "decoder": 0.005, "classifiers": 0.0, "head": 0.01}[name.partition(".")[0]]
        assert rate == pytest.approx(0.1 if name.startswith("classifiers.1.") else wanted)


def test_rates_multiply_those_of_their_own():
    train = TrainConfig(classifier_lr=0.2, batch_norm_lr=0.3)
    model = Parts()
    found = rates_of(make_optimizer(train, model, 0.01, {"encoder.": 0.1, "classifiers.": 10}), model)
    assert found["encoder.1.weight"] == pytest.approx(0.03) and found["encoder.0.weight"] == pytest.approx(0.001)
    assert found["classifiers.3.bias"] == pytest.approx(2.0) and found["decoder.bias"] == 0.01


def test_a_part_without_a_rate_stays():
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    step(model, make_optimizer(TrainConfig(weight_decay=0.1), model, 0.1, {"0.": 0.0}))
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert moved == [False, False, True, True, True, True]


def test_frozen_batch_norm_is_no_parameter_of_the_optimiser():
    model = Parts()
    with hold(model, "freeze"):
        found = rates_of(make_optimizer(TrainConfig(), model, 0.01), model)
    assert not [name for name in found if name.startswith("encoder.1.")] and "encoder.0.weight" in found


def test_only_later_tasks_have_rates_of_their_own():
    config = RunConfig("voc", "15-1", train=TrainConfig(later_rates=Rates(encoder=0.1)))
    assert config.rates(0) == {}
    assert config.rates(3) == {"encoder.": 0.1, "decoder.": 1.0, "classifiers.": 1.0, "classifiers.3.": 1.0}
