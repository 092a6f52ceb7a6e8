"""Gated fusion, its losses and the gradient of its gates, in exact mathematics (archive fusion)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from css.fusion.gates import by_entry, gate_groups, interpolate, with_constant_statistics
from css.losses import kl_divergence

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "fusion.npz", allow_pickle=False)
GATES = sorted(name.removeprefix("gate_") for name in ARCHIVE.files if name.startswith("gate_"))
ENTRIES = {"body.0.weight": "w", "body.0.bias": "b", "body.1.weight": "gamma", "body.1.bias": "beta"}


def tensor(name):
    return torch.from_numpy(ARCHIVE[name]).double()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        width, inputs = ARCHIVE["slow_w"].shape
        self.body = nn.Sequential(
            nn.Linear(inputs, width), nn.BatchNorm1d(width, eps=float(ARCHIVE["bn_eps"])), nn.ReLU()
        )
        self.heads = nn.ModuleDict()
        for which in ("old", "new"):
            head = nn.Linear(width, len(ARCHIVE[f"head_{which}_bias"]))
            head.weight.data, head.bias.data = tensor(f"head_{which}_weight"), tensor(f"head_{which}_bias")
            self.heads[which] = head
        self.double().eval()

    def forward(self, x, which="old"):
        return self.heads[which](self.body(x))


def state(network, values):
    """The state dict with the body of a stored network and the shared running statistics."""
    found = {name: value.clone() for name, value in network.state_dict().items()}
    found |= {entry: tensor(f"{values}_{short}") for entry, short in ENTRIES.items()}
    return found | {"body.1.running_mean": tensor("running_mean"), "body.1.running_var": tensor("running_var")}


@pytest.fixture(scope="module")
def network():
    return Network()


def fused(network, gate):
    groups = gate_groups(network, tensor("inputs_old"))
    return interpolate(state(network, "slow"), state(network, "fast"), by_entry(groups, {"body.0": gate}))


def losses(network, values):
    values = with_constant_statistics(network, values)
    return [
        kl_divergence(tensor(f"teacher_logits_{w}"), functional_call(network, values, (tensor(f"inputs_{w}"), w)))
        for w in ("old", "new")
    ]


def test_the_channel_of_a_layer_and_its_batch_norm_share_a_gate(network):
    assert gate_groups(network, tensor("inputs_old"))["body.0"] == [
        "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "body.1.running_mean", "body.1.running_var",
    ]  # fmt: skip


def test_the_archive_is_the_network_we_think(network):
    for which, values in (("old", "teacher"), ("new", "fast")):
        logits = functional_call(network, state(network, values), (tensor(f"inputs_{which}"), which))
        np.testing.assert_allclose(logits, ARCHIVE[f"teacher_logits_{which}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", GATES)
def test_parameters(name, network):
    found = fused(network, tensor(f"gate_{name}"))
    for entry, short in ENTRIES.items():
        np.testing.assert_allclose(found[entry].detach(), ARCHIVE[f"{name}_fused_{short}"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", GATES)
def test_losses_and_their_gradient(name, network):
    gate = tensor(f"gate_{name}").requires_grad_()
    of_old, of_new = losses(network, fused(network, gate))
    assert of_old.item() == pytest.approx(float(ARCHIVE[f"{name}_kl_old"]), rel=1e-9, abs=1e-13)
    assert of_new.item() == pytest.approx(float(ARCHIVE[f"{name}_kl_new"]), rel=1e-9, abs=1e-13)
    (gradient,) = torch.autograd.grad(of_old + of_new, gate)
    np.testing.assert_allclose(gradient, ARCHIVE[f"{name}_grad_gate"], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in GATES if f"{name}_gate_logits" in ARCHIVE.files])
def test_gradient_before_the_sigmoid(name, network):
    raw = tensor(f"{name}_gate_logits").requires_grad_()
    (gradient,) = torch.autograd.grad(sum(losses(network, fused(network, raw.sigmoid()))), raw)
    np.testing.assert_allclose(gradient, ARCHIVE[f"{name}_grad_gate_logits"], rtol=1e-8, atol=1e-13)


def test_one_number_for_the_whole_layer_is_another_gradient(network):
    """The control: the random gates are not one coefficient."""
    mean = tensor("gate_random").mean()
    assert abs(losses(network, fused(network, mean))[0].item() - float(ARCHIVE["random_kl_old"])) > 1e-4
