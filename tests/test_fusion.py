"""Gates, their groups and their learning; the numbers of Eq. 10 are in test_oracle_fusion.py."""

import copy
import math

import pytest
import torch
from torch import nn

from css.fusion import FusionOptions, MetaFusion, kl_divergence, old_kl
from css.gates import by_entry, gate_groups, interpolate, linear
from css.model import Segmenter
from css.reestimate import reestimate_batch_norm


def segmenter(seed=0):
    """A small network that has learnt two tasks, with running statistics of its own."""
    torch.manual_seed(seed)
    model = Segmenter("tu-test_resnet")
    model.grow([0, 1, 2])
    model.grow([3])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def moved(model, size, seed):
    """A state not far from the model's, as a few epochs leave it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * value.abs().mean() * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and "running" not in name
        else value.clone()
        for name, value in model.state_dict().items()
    }


IMAGES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(5))


# ---------------------------------------------------------------- gates


def test_every_floating_entry_of_a_segmenter_has_one_gate():
    model = segmenter()
    groups = gate_groups(model, IMAGES[:1])
    covered = [entry for entries in groups.values() for entry in entries]
    assert len(covered) == len(set(covered))
    assert set(covered) == {name for name, value in model.state_dict().items() if value.is_floating_point()}
    for entries in groups.values():
        assert len({len(model.state_dict()[entry]) for entry in entries}) == 1  # one number per output channel
    assert len(groups["decoder.conv"]) == 5 and len(groups["classifiers.0"]) == 2
    assert groups["classifiers.1"] == ["classifiers.1.weight", "classifiers.1.bias"]
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, nn.Conv2d))


def test_a_batch_norm_after_anything_else_has_its_own_gate():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4, affine=False))
    groups = gate_groups(model, torch.randn(2, 3, 4, 4))
    assert groups == {
        "0": ["0.weight", "0.bias", "0.running_mean", "0.running_var"],
        "1": ["1.weight", "1.bias"],
        "3": ["3.running_mean", "3.running_var"],
    }


def test_end_points_are_slow_and_fast_to_the_bit():
    model = segmenter()
    slow, fast = moved(model, 0.3, 1), moved(model, 0.3, 2)
    groups = gate_groups(model, IMAGES[:1])
    for gate, expected in ((1.0, slow), (0.0, fast)):
        gates = {name: torch.full((len(fast[entries[0]]),), gate) for name, entries in groups.items()}
        fused = interpolate(slow, fast, by_entry(groups, gates))
        assert fused.keys() == fast.keys() and all(torch.equal(fused[name], expected[name]) for name in expected)


def test_linear_fusion_is_one_gate_for_all():
    model = segmenter()
    slow, fast = moved(model, 0.3, 1), moved(model, 0.3, 2)
    fused = linear(slow, fast, 0.25, ("classifiers.1.",))
    for name, value in fused.items():
        if name.startswith("classifiers.1.") or not value.is_floating_point():
            assert torch.equal(value, fast[name])
        else:
            torch.testing.assert_close(value, 0.25 * slow[name] + 0.75 * fast[name])


def test_gates_weigh_the_rows_of_a_layer():
    slow, fast = (
        {"w": torch.ones(3, 2, 1, 1), "n": torch.tensor(1)},
        {"w": torch.zeros(3, 2, 1, 1), "n": torch.tensor(7)},
    )
    fused = interpolate(slow, fast, {"w": torch.tensor([0.0, 0.5, 1.0]), "n": torch.tensor(1.0)})
    assert fused["w"][:, :, 0, 0].tolist() == [[0, 0], [0.5, 0.5], [1, 1]] and fused["n"] == 7


# ---------------------------------------------------------------- losses


def test_kl_of_equal_distributions_is_zero_and_never_negative():
    logits = torch.randn(4, 5, 3, 3)
    assert kl_divergence(logits, logits + 2.0).item() == pytest.approx(0, abs=1e-6)
    assert kl_divergence(logits, torch.randn(4, 5, 3, 3)) > 0.1
    by_hand = torch.tensor([[math.log(0.75), math.log(0.25)]]), torch.zeros(1, 2)
    assert kl_divergence(*by_hand).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_the_teacher_gets_no_gradient():
    teacher, logits = torch.randn(2, 3, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    (old_kl(teacher, logits, 3) + kl_divergence(teacher, logits[:, :3])).backward()
    assert teacher.grad is None and logits.grad.abs().max() > 0


def test_background_may_become_a_new_class():
    """To the teacher new classes are background: probability that moves there costs nothing. A plain KL sees it."""
    teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    never = torch.full((2, 2, 4, 4), -60.0, dtype=torch.float64)
    same = torch.cat([teacher, never], 1)
    assert old_kl(teacher, same, 3).item() == pytest.approx(0, abs=1e-12)
    half = same.clone()
    half[:, 0] -= math.log(2)
    half[:, 3] = half[:, 0]
    assert old_kl(teacher, half, 3).item() == pytest.approx(0, abs=1e-12)
    assert kl_divergence(teacher, half[:, :3]).item() > 1e-3
    other = same.clone()
    other[:, 3] = same[:, 1]  # an old class that becomes a new one is forgotten
    assert old_kl(teacher, other, 3).item() > 1e-2


# ---------------------------------------------------------------- learning


def fusion(model, slow, fast, teacher, **options):
    settings = {"steps": 12, "lr": 0.3, "batch": 2, "held_out": 0.34, **options}
    return MetaFusion(model, slow, fast, teacher, 3, FusionOptions(**settings), keep_fast=["classifiers.1."])


@pytest.fixture(scope="module")
def models():
    model = segmenter()
    teacher = segmenter()
    teacher.classifiers = teacher.classifiers[:1]
    return model, moved(model, 0.2, 1), moved(model, 0.6, 2), teacher


def test_gates_lower_the_loss_and_keep_the_new_classifier(models):
    model, slow, fast, teacher = models
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    maker = fusion(model, slow, fast, teacher)
    found = maker.fuse(IMAGES, IMAGES.flip(3))
    half = sum(maker.loss(linear(slow, fast, 0.5, ("classifiers.1.",)), IMAGES[:2], IMAGES.flip(3)[:2]))
    assert sum(maker.loss(found.state, IMAGES[:2], IMAGES.flip(3)[:2])) < half  # the two that were held out
    assert all(torch.equal(found.state[f"classifiers.1.{e}"], fast[f"classifiers.1.{e}"]) for e in ("weight", "bias"))
    assert "classifiers.1" not in found.gates and "classifiers.0" in found.gates
    for layer, gate in found.gates.items():
        if f"{layer}.weight" in slow:
            a = gate.view(-1, *[1] * (slow[f"{layer}.weight"].dim() - 1))
            expected = a * slow[f"{layer}.weight"] + (1 - a) * fast[f"{layer}.weight"]
            torch.testing.assert_close(found.state[f"{layer}.weight"], expected)
    assert max((gate - 0.5).abs().max() for gate in found.gates.values()) > 0.05
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()] and all(p.requires_grad for p in model.parameters())
    assert len(found.history) == 12 and {"old", "new", "held_out"} == set(found.history[0])


def test_same_seed_same_gates(models):
    model, slow, fast, teacher = models
    first, second = (fusion(model, slow, fast, teacher, steps=3).fuse(IMAGES, IMAGES) for _ in range(2))
    assert all(torch.equal(first.gates[name], second.gates[name]) for name in first.gates)


def test_equal_models_leave_the_gates_alone(models):
    """slow == fast: the fused model does not depend on the gates, and their gradient is zero."""
    model, _, fast, teacher = models
    found = fusion(model, fast, fast, teacher, steps=3).fuse(IMAGES, IMAGES)
    assert all(torch.equal(gate, torch.full_like(gate, 0.5)) for gate in found.gates.values())
    assert all(torch.allclose(found.state[name].double(), fast[name].double(), atol=1e-6) for name in fast)


def test_best_linear_coefficient(models):
    model, slow, fast, teacher = models
    maker = fusion(model, slow, fast, teacher)
    alpha, losses = maker.best_linear(IMAGES, IMAGES, [0.0, 0.5, 1.0])
    expected = [sum(maker.loss(linear(slow, fast, a, ("classifiers.1.",)), IMAGES, IMAGES)) for a in (0.0, 0.5, 1.0)]
    assert losses == pytest.approx(expected, rel=1e-5) and alpha == [0.0, 0.5, 1.0][losses.index(min(losses))]
    started = fusion(model, slow, fast, teacher, steps=0, start="linear").fuse(IMAGES, IMAGES)
    (value,) = {round(gate.mean().item(), 4) for gate in started.gates.values()}
    best, _ = fusion(model, slow, fast, teacher).best_linear(IMAGES[2:], IMAGES[2:])
    assert value == pytest.approx(min(max(best, 0.05), 0.95), abs=1e-4)


class Regression(nn.Module):
    """Two linear units; their soft-max with a constant 0 lets each be fitted by itself."""

    def __init__(self, weight):
        super().__init__()
        self.body = nn.Linear(2, 2, bias=False, dtype=torch.float64)
        self.body.weight.data = weight

    def forward(self, x):
        return self.body(x)


def test_gates_reach_the_closed_form_per_channel():
    """The teacher is a known gated mean of slow and fast: its gates are the unique optimum, channel by channel."""
    torch.manual_seed(0)
    slow, fast = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    a = torch.tensor([0.8, 0.3], dtype=torch.float64)
    teacher = Regression(a[:, None] * slow + (1 - a[:, None]) * fast)
    options = FusionOptions(steps=400, lr=0.1, batch=64, held_out=0.5, old_weight=1.0)
    x = torch.randn(64, 2, dtype=torch.float64)
    maker = MetaFusion(Regression(fast), {"body.weight": slow}, {"body.weight": fast}, teacher, 2, options)
    maker._with_targets = lambda old, new: ((old, teacher(old).detach()), (new, teacher(new).detach()))
    gates = maker.fuse(x, x).gates["body"]
    torch.testing.assert_close(gates, a, rtol=0, atol=2e-2)


def test_reptile_with_one_kind_of_step_is_scaled_sgd():
    """To first order two SGD steps, on the old and on the new loss, and half of the way there."""
    torch.manual_seed(1)
    slow, fast = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    teacher, x = Regression(torch.randn(2, 2, dtype=torch.float64)), torch.randn(8, 2, dtype=torch.float64)

    def first_step(lr):
        options = FusionOptions(steps=1, lr=lr, batch=8, held_out=0.0, optimizer="reptile")
        maker = MetaFusion(Regression(fast), {"body.weight": slow}, {"body.weight": fast}, teacher, 2, options)
        raw = {"body": torch.zeros(2, dtype=torch.float64, requires_grad=True)}
        groups = {"body": ["body.weight"]}
        data = maker._with_targets(x, x)
        maker._learn(raw, groups, data, data)
        gradient = torch.autograd.grad(
            sum(maker._losses(maker._state(groups, {"body": (zero := torch.zeros(2, dtype=torch.float64,
                requires_grad=True)).sigmoid()}), *data)), zero)[0]  # fmt: skip
        return raw["body"].detach(), gradient

    for lr in (1e-4, 1e-5):
        value, gradient = first_step(lr)
        torch.testing.assert_close(value, -0.5 * lr * gradient, rtol=10 * lr, atol=0)


def test_gate_gradient_against_finite_differences():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)).double().eval()
    slow, fast = ({n: v + 0.3 * torch.randn_like(v) if v.is_floating_point() and "running" not in n else v.clone()
                   for n, v in model.state_dict().items()} for _ in range(2))  # fmt: skip
    groups, x = gate_groups(model, torch.randn(1, 3, 2, 2, dtype=torch.float64)), torch.randn(2, 3, 2, 2).double()
    target = torch.randn(2, 2, 2, 2, dtype=torch.float64)

    def loss(first, last):
        state = interpolate(slow, fast, by_entry(groups, {"0": first.sigmoid(), "3": last.sigmoid()}))
        return old_kl(target, torch.func.functional_call(model, state, x), 2)

    raw = (
        torch.randn(4, dtype=torch.float64, requires_grad=True),
        torch.randn(3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(loss, raw)


# ---------------------------------------------------------------- statistics


def test_statistics_of_one_batch_are_exact_for_every_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    images = torch.randn(8, 3, 4, 4)
    before = copy.deepcopy(model.state_dict())
    reestimate_batch_norm(model.eval(), [images])
    hidden = model[0](images)
    torch.testing.assert_close(model[1].running_mean, hidden.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, hidden.transpose(0, 1).flatten(1).var(1))
    normalised = nn.functional.batch_norm(hidden, None, None, training=True)
    deep = model[3](model[2](normalised * model[1].weight[:, None, None] + model[1].bias[:, None, None]))
    torch.testing.assert_close(model[4].running_mean, deep.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[4].running_var, deep.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5)
    assert not model.training and model[1].num_batches_tracked == before["1.num_batches_tracked"]
    assert all(torch.equal(model.state_dict()[n], before[n]) for n in before if "running" not in n)


def test_batches_of_different_size_and_mean_count_by_their_values():
    """Neither an average of the batches' means nor one of their variances."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    batches = [torch.randn(2, 3, 4, 4), torch.randn(6, 3, 4, 4) * 2 + 5]
    reestimate_batch_norm(model, batches)
    everything = torch.cat(batches).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[0].running_mean, everything.mean(1))
    torch.testing.assert_close(model[0].running_var, everything.var(1))
    of_batches = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches]).mean(0)
    assert (model[0].running_var - of_batches).abs().min() > 1
    assert model.training and model[0].momentum == 0.1


def test_no_batch_changes_nothing():
    model = nn.Sequential(nn.BatchNorm2d(3))
    reestimate_batch_norm(model, [])
    assert torch.equal(model[0].running_mean, torch.zeros(3)) and torch.equal(model[0].running_var, torch.ones(3))
