"""Gates, their groups and their learning; the numbers of Eq. 10 are in test_oracle_fusion.py."""

import copy
import math

import pytest
import torch
from torch import nn

from css.fusion.gates import by_entry, gate_groups, interpolate, linear, with_constant_statistics
from css.fusion.meta import FusionOptions, MetaFusion
from css.losses import background_kl, kl_divergence
from css.model.segmenter import Segmenter
from tasks import InputError


def segmenter(encoder="tu-test_resnet"):
    """A small network that has learnt two tasks, with running statistics of its own."""
    torch.manual_seed(0)
    model = Segmenter(encoder)
    model.grow([0, 1, 2])
    model.grow([3])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def moved(model, size, seed):
    """A state not far from the model's, as a few epochs leave it; its running statistics have moved, too."""
    generator = torch.Generator().manual_seed(seed)

    def step(name, value):
        if not value.is_floating_point():
            return value.clone()
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return value * (size * noise).exp() if name.endswith("running_var") else value + size * _scale(value) * noise

    return {name: step(name, value) for name, value in model.state_dict().items()}


def _scale(value):
    return value.abs().mean().clamp_min(0.1)


IMAGES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(5))


# ---------------------------------------------------------------- gates


@pytest.mark.parametrize("encoder", ["tu-test_resnet", "resnet18"])
def test_every_floating_entry_of_a_segmenter_has_one_gate(encoder):
    model = segmenter(encoder)
    groups = gate_groups(model, IMAGES[:1])
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert groups.keys() == convolutions and len(convolutions) > 15  # every BatchNorm has found its convolution
    covered = [entry for entries in groups.values() for entry in entries]
    assert len(covered) == len(set(covered))
    assert set(covered) == {name for name, value in model.state_dict().items() if value.is_floating_point()}
    for entries in groups.values():
        assert len({len(model.state_dict()[entry]) for entry in entries}) == 1  # one number per output channel
    assert len(groups["decoder.conv"]) == 5 and len(groups["classifiers.0"]) == 2
    assert groups["classifiers.1"] == ["classifiers.1.weight", "classifiers.1.bias"]
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_a_batch_norm_after_anything_else_has_its_own_gate():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4, affine=False))
    groups = gate_groups(model, torch.randn(2, 3, 4, 4))
    assert groups == {
        "0": ["0.weight", "0.bias", "0.running_mean", "0.running_var"],
        "1": ["1.weight", "1.bias"],
        "3": ["3.running_mean", "3.running_var"],
    }


def test_a_layer_that_is_called_twice_keeps_both_batch_norms():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.second(self.conv(self.first(self.conv(x))))

    (entries,) = gate_groups(Twice(), torch.randn(2, 3, 4, 4)).values()
    assert {"conv.weight", "first.weight", "second.weight"} <= set(entries)


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


def test_the_model_before_the_task_cancels():
    """Eq. 10 as printed, W_old + A (W_slow - W_old) + (1 - A) (W_fast - W_old), is the mean of slow and fast."""
    old, slow, fast = (torch.randn(4, 3, 2, 2, dtype=torch.float64) for _ in range(3))
    a = torch.rand(4, dtype=torch.float64)
    rows = a.view(-1, 1, 1, 1)
    fused = interpolate({"w": slow}, {"w": fast}, {"w": a})["w"]
    torch.testing.assert_close(fused, old + rows * (slow - old) + (1 - rows) * (fast - old))


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
    (background_kl(teacher, logits, 3) + kl_divergence(teacher, logits[:, :3])).backward()
    assert teacher.grad is None and logits.grad.abs().max() > 0


def test_background_may_become_a_new_class():
    """To the teacher new classes are background: probability that moves there costs nothing. A plain KL sees it."""
    teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    never = torch.full((2, 2, 4, 4), -60.0, dtype=torch.float64)
    same = torch.cat([teacher, never], 1)
    assert background_kl(teacher, same, 3).item() == pytest.approx(0, abs=1e-12)
    never[:] = -torch.inf
    assert background_kl(teacher, torch.cat([teacher, never], 1), 3).item() == pytest.approx(0, abs=1e-12)
    half = same.clone()
    half[:, 0] -= math.log(2)
    half[:, 3] = half[:, 0]
    assert background_kl(teacher, half, 3).item() == pytest.approx(0, abs=1e-12)
    assert kl_divergence(teacher, half[:, :3]).item() > 1e-3
    padded = torch.cat([teacher, torch.full_like(never, -60.0)], 1)
    assert kl_divergence(padded, half).item() > 1e-3
    other = same.clone()
    other[:, 3] = same[:, 1]  # an old class that becomes a new one is forgotten
    assert background_kl(teacher, other, 3).item() > 1e-2


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
    model.train()
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()  # as when it is held
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
    model.load_state_dict(found.state)
    model.eval().load_state_dict(before)
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


def small_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 1)).double().eval()
    return model, moved(model, 1.0, 1), moved(model, 1.0, 2), 2 * torch.randn(2, 3, 2, 2, dtype=torch.float64)


def test_gate_gradient_against_finite_differences():
    """Through all that shares the gate, running statistics included; the control leaves those out."""
    model, slow, fast, x = small_network()
    teacher = nn.Conv2d(3, 2, 1).double()
    maker = MetaFusion(model, slow, fast, teacher, 2)
    groups, data = gate_groups(model, x), maker._with_targets(x, x)

    def loss(first, last):
        return sum(maker._losses(maker._state(groups, {"0": first.sigmoid(), "3": last.sigmoid()}), *data))

    def loss_of_constants(first, last):
        state = maker._state(groups, {"0": first.sigmoid(), "3": last.sigmoid()})
        return sum(maker._losses({n: v.detach() if "running" in n else v for n, v in state.items()}, *data))

    raw = [torch.randn(width, dtype=torch.float64, requires_grad=True) for width in (4, 3)]
    assert torch.autograd.gradcheck(loss, raw)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(loss_of_constants, raw)


def test_constant_statistics_are_the_same_network():
    model, slow, fast, x = small_network()
    gate = torch.rand(4, dtype=torch.float64, requires_grad=True)
    state = interpolate(slow, fast, by_entry(gate_groups(model, x), {"0": gate}))
    constant = with_constant_statistics(model, state)
    assert state["1.running_var"].requires_grad and not constant["1.running_var"].requires_grad
    expected = {name: value.detach() for name, value in state.items()}
    call = torch.func.functional_call
    torch.testing.assert_close(call(model, constant, x), call(model, expected, x))
    unchanged = with_constant_statistics(model, expected)
    assert all(torch.equal(unchanged[name], expected[name]) for name in expected)


def test_a_batch_norm_without_weight_has_constant_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=0))
    gate = torch.rand(4, requires_grad=True)
    state = with_constant_statistics(model, interpolate(moved(model, 0.3, 1), moved(model, 0.3, 2), {
        "0.weight": gate, "1.running_mean": gate, "1.running_var": gate}))  # fmt: skip
    torch.func.functional_call(model.eval(), state, torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert gate.grad.isfinite().all()


@pytest.mark.parametrize("optimizer, lr", [("adam", 30.0), ("reptile", 1e6)])
def test_the_best_gates_are_kept_not_the_last(optimizer, lr):
    """The optimum is near the start; with a far too large rate all steps go past it and do not come back."""
    torch.manual_seed(0)
    slow, fast = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    teacher, x = Regression(0.6 * slow + 0.4 * fast), torch.randn(8, 2, dtype=torch.float64)
    options = FusionOptions(steps=4, lr=lr, batch=8, held_out=0.0, optimizer=optimizer)
    maker = MetaFusion(Regression(fast), {"body.weight": slow}, {"body.weight": fast}, teacher, 2, options)
    maker._with_targets = lambda old, new: ((old, teacher(old).detach()), (new, teacher(new).detach()))
    found = maker.fuse(x, x)
    held_out = [entry["held_out"] for entry in found.history]
    assert all(later > 2 * held_out[0] for later in held_out[1:])
    assert found.gates["body"].tolist() == [0.5, 0.5]


def test_weight_of_the_old_classes():
    model, slow, fast, x = small_network()
    teacher = nn.Conv2d(3, 2, 1).double()
    maker = MetaFusion(model, slow, fast, teacher, 2, FusionOptions(old_weight=3.0, batch=1))
    of_old, of_new = maker.loss(linear(slow, fast, 0.5), x, x)
    assert maker.best_linear(x, x, [0.5]) == (0.5, [pytest.approx(3 * of_old + of_new)])
    assert maker.best_linear(x, x)[0] > 0  # some of the slow model
    new_alone = MetaFusion(model, slow, fast, teacher, 2, FusionOptions(old_weight=0.0))
    assert new_alone.best_linear(x, x)[0] == 0.0  # the fast model is its own teacher


def test_reptile_looks_at_one_kind_of_dreams_at_a_time():
    """One forward pass per inner step; the second one already sees the gates that the first has moved."""
    model, slow, fast, x = small_network()
    maker = MetaFusion(model, slow, fast, nn.Conv2d(3, 2, 1).double(), 2,
                       FusionOptions(steps=1, lr=20.0, batch=2, held_out=0.0, optimizer="reptile"))  # fmt: skip
    calls, groups, data = [], gate_groups(model, x), maker._with_targets(x, x)
    raw = {gate: torch.zeros(len(fast[entries[0]]), dtype=torch.float64, requires_grad=True)
           for gate, entries in groups.items()}  # fmt: skip
    before = maker._new_loss(maker._state(groups, {gate: value.sigmoid() for gate, value in raw.items()}), data[1])
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    _, history = maker._learn(raw, groups, data, data)
    hook.remove()
    assert len(calls) == 1 + 1 + 2  # held-out losses, of both kinds, before and after, and the two steps
    assert abs(history[0]["new"] - before.item()) > 1e-4


# ---------------------------------------------------------------- bad input


def test_a_loss_that_is_not_finite_is_refused():
    model, slow, fast, x = small_network()
    maker = MetaFusion(model, slow, fast, nn.Conv2d(3, 2, 1).double(), 2, FusionOptions(steps=2))
    for compute in (maker.fuse, maker.best_linear):
        with pytest.raises(InputError, match=r"not a finite number.*--train.later-lr"):
            compute(x * math.nan, x)


@pytest.mark.parametrize("flag, value", [("steps", -1), ("lr", 0.0), ("batch", 0), ("old_weight", -1.0),
                                         ("held_out", 1.0)])  # fmt: skip
def test_options_out_of_range_are_refused(flag, value):
    with pytest.raises(InputError, match=f"--options.fuse.{flag.replace('_', '-')} {value}"):
        FusionOptions(**{flag: value})


@pytest.mark.parametrize("optimizer", ["adam", "reptile"])
def test_weight_of_the_old_classes_in_learning(models, optimizer):
    def first(weight):
        maker = fusion(*models, steps=1, held_out=0, batch=6, optimizer=optimizer, old_weight=weight)
        return maker.fuse(IMAGES, IMAGES.flip(3)).history[0]["old"]

    assert first(1.0) > 0 and first(3.0) == pytest.approx(3 * first(1.0), rel=1e-5) and first(0.0) == 0
