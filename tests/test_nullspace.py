"""Statistics, projectors and projected steps: identities, edge cases, and the mistakes that are easy to make."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from css.dilation import SparseTapConv2d
from css.nullspace import GradientStatistics, Rule, for_parameters, project_total, project_updates, projector
from css.nullspace.layers import input_rows, rows_of, split_rows
from tasks import InputError

DOUBLE = torch.float64


def mse(model, images, labels):
    return F.mse_loss(model(images), labels)


def regression(samples=12, inputs=9, outputs=4, rank=5, seed=0):
    """A linear layer and data whose inputs span `rank` of the directions only."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, inputs, generator=generator, dtype=DOUBLE)
    x = torch.randn(samples, rank, generator=generator, dtype=DOUBLE) @ basis
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=False, dtype=DOUBLE), x, torch.randn(samples, outputs, dtype=DOUBLE)


def gathered(layer, x, y, group="sample", **settings):
    statistics = GradientStatistics(**settings)
    statistics.collect(layer, [(x, y)], mse, group)
    return statistics


# ---------------------------------------------------------------- statistics

CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 1), "padding": (1, 0), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_unfolded_inputs_times_output_gradient_is_the_weight_gradient(options):
    """Eq. 5: X (dL/dZ)^T = (dL/dW)^T for any geometry, the bias as an input of 1."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, dtype=DOUBLE, **options)
    x = torch.randn(3, 4, 7, 8, dtype=DOUBLE)
    output = layer(x)
    loss = output.sin().square().mean()
    gradient, *of_weights = torch.autograd.grad(loss, [output, *layer.parameters()])
    rows = input_rows(layer, x)  # (groups, N * positions, C1)
    of_output = gradient.flatten(2).unflatten(1, (layer.groups, -1)).permute(1, 2, 0, 3).flatten(2)
    expected = rows_of(of_weights[0], of_weights[1] if layer.bias is not None else None, layer.groups)
    torch.testing.assert_close(of_output @ rows, expected)


def test_rows_and_back():
    weight, bias = torch.randn(6, 2, 3, 3), torch.randn(6)
    for groups, with_bias in ((1, None), (1, bias), (2, bias), (3, None)):
        rows = rows_of(weight, with_bias, groups)
        assert rows.shape == (groups, 6 // groups, 18 + (with_bias is not None))
        again, bias_again = split_rows(rows, weight, with_bias)
        assert torch.equal(again, weight) and (with_bias is None or torch.equal(bias_again, bias))


def test_sparse_taps_are_a_convolution_like_any_other():
    """Taps that see padding only have no gradient: those columns are silent, and free."""
    layer = nn.Conv2d(3, 4, 3, padding=8, dilation=8, bias=False, dtype=DOUBLE)
    layer.__class__ = SparseTapConv2d
    statistics = GradientStatistics()
    x, y = torch.randn(5, 3, 6, 6, dtype=DOUBLE), torch.randn(5, 4, 6, 6, dtype=DOUBLE)
    statistics.collect(layer, [(x, y)], mse, "sample")
    assert projector(statistics, Rule("relative", 1e-9))["weight"].free == 24  # eight taps of three channels


def test_linear_layer_per_sample_is_the_weighted_covariance():
    layer, x, y = regression()
    output = layer(x)
    gradient = torch.autograd.grad(F.mse_loss(output, y), output)[0] * len(x)  # a batch of one has a mean of its own
    expected = sum(g.square().sum() * torch.outer(s, s) for g, s in zip(gradient, x, strict=True))
    torch.testing.assert_close(gathered(layer, x, y).grams["weight"][0].matrix, expected)


@pytest.mark.parametrize("group", ["set", "batch", "sample"])
def test_groups_are_sums_of_their_gradients(group):
    layer, x, y = regression()
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    statistics = GradientStatistics()
    statistics.collect(layer, batches, mse, group)

    def gradient(some_x, some_y):
        return torch.autograd.grad(mse(layer, some_x, some_y), layer.weight)[0]

    of_batches = [gradient(*batch) for batch in batches]
    expected = {
        "set": [sum(of_batches)],
        "batch": of_batches,
        "sample": [gradient(x[i : i + 1], y[i : i + 1]) for i in range(len(x))],
    }[group]
    torch.testing.assert_close(statistics.grams["weight"][0].matrix, sum(g.T @ g for g in expected))
    assert statistics.counts["weight"] == len(expected) and statistics.channels["weight"] == 4


def test_one_gradient_per_class_leaves_void_out():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 1, dtype=DOUBLE)
    x, labels = torch.randn(2, 2, 4, 4, dtype=DOUBLE), torch.randint(0, 2, (2, 4, 4))
    labels[0, 0] = 255

    def loss(model, images, targets):
        return F.cross_entropy(model(images), targets, ignore_index=255, reduction="sum")

    statistics = GradientStatistics()
    statistics.collect(layer, [(x, labels)], loss, "class")
    expected = 0
    for value in (0, 1):
        only = torch.where(labels == value, labels, 255)
        weight, bias = torch.autograd.grad(loss(layer, x, only), list(layer.parameters()))
        rows = torch.cat([weight.flatten(1), bias[:, None]], 1)
        expected = expected + rows.T @ rows
    torch.testing.assert_close(statistics.grams["weight"][0].matrix, expected)


def test_batches_in_any_order_and_in_parts():
    layer, x, y = regression()
    whole, there, here = GradientStatistics(), GradientStatistics(), GradientStatistics()
    batches = [(x[i : i + 3], y[i : i + 3]) for i in range(0, 12, 3)]
    whole.collect(layer, batches, mse)
    there.collect(layer, batches[:0:-1], mse)
    here.collect(layer, batches[:1], mse)
    there.merge(here)
    torch.testing.assert_close(there.grams["weight"][0].matrix, whole.grams["weight"][0].matrix)
    assert there.counts == whole.counts


def test_tasks_of_another_scale_count_the_same():
    layer, x, y = regression()
    first, second = gathered(layer, x, y), gathered(layer, x.flip(1) * 100, y)
    total = GradientStatistics()
    for statistics in (first, second):
        total.add(statistics)
    unit = [s.grams["weight"][0].matrix / s.grams["weight"][0].trace() for s in (first, second)]
    torch.testing.assert_close(total.grams["weight"][0].matrix, sum(unit))
    raw = GradientStatistics()
    raw.add(first, normalise=False)
    torch.testing.assert_close(raw.grams["weight"][0].matrix, first.grams["weight"][0].matrix)


def test_collecting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)).train()
    model[1].eval()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = copy.deepcopy(model.state_dict())
    statistics = GradientStatistics()
    x = torch.randn(4, 3, 6, 6)
    statistics.collect(model, [(x, torch.zeros(4, 2, 4, 4))], mse)
    statistics.collect_features(model, [(x, None)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True]
    assert model[0].weight.grad is None and torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert not any(m._forward_pre_hooks for m in model)


def test_a_layer_without_gradient_is_left_out_and_a_frozen_one_is_not():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.used(x))

    model, batch = Half(), (torch.randn(4, 3), torch.zeros(4, 2))
    statistics, of_teacher = GradientStatistics(), GradientStatistics()
    statistics.collect(model, [batch], mse)
    assert list(statistics.grams) == ["used.weight", "frozen.weight"]
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2
    of_teacher.collect(model.requires_grad_(False), [batch], mse)
    for name, (gram,) in statistics.grams.items():
        assert torch.equal(gram.matrix, of_teacher.grams[name][0].matrix)
    assert not any(p.requires_grad for p in model.parameters())


def test_round_trip_gives_the_same_projectors():
    layer, x, y = regression(inputs=40, rank=30, samples=50)
    for settings in ({}, {"exact_up_to": 8, "sketch_rows": 6}):
        statistics = gathered(layer, x, y, **settings)
        again = GradientStatistics.from_tensors(statistics.tensors(), **settings)
        one, two = (projector(s, Rule("energy", 0.1))["weight"] for s in (statistics, again))
        identity = torch.eye(40, dtype=DOUBLE)
        assert torch.equal(one(identity), two(identity)) and one.bound == two.bound
        assert statistics.counts == again.counts and statistics.bytes == again.bytes > 0


def test_statistics_of_another_network():
    layer, x, y = regression()
    statistics = gathered(layer, x, y)
    statistics.check(layer)
    for other in (nn.Linear(9, 4), nn.Linear(8, 4, bias=False), nn.Sequential(layer)):
        with pytest.raises(InputError, match="another architecture"):
            statistics.check(other)


# ---------------------------------------------------------------- rules and projectors

RULES = [Rule("energy", 0.01), Rule("relative", 1e-3), Rule("fraction", 0.3), Rule("budget", 1e-4), Rule("ratio", 10)]


@pytest.mark.parametrize("rule", RULES)
def test_projectors_are_orthogonal_projectors(rule):
    layer, x, y = regression(inputs=20, rank=15, samples=40)
    project = projector(gathered(layer, x, y), rule)["weight"]
    matrix = project(torch.eye(20, dtype=DOUBLE))
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-10)
    assert matrix.trace().item() == pytest.approx(project.free, abs=1e-9)
    assert matrix.norm().item() == pytest.approx(project.free**0.5, abs=1e-9)


def test_rules_count_as_they_say():
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0], dtype=DOUBLE)
    assert Rule("energy", 0.25).protected(values, 5, 1, 1) == 2  # 2 + 1 + 1 = 4 of 16 are free
    assert Rule("energy", 0.24).protected(values, 5, 1, 1) == 3
    assert Rule("relative", 0.25).protected(values, 5, 1, 1) == 2
    assert Rule("fraction", 0.4).protected(values, 5, 1, 1) == 2
    assert Rule("budget", 6.0).protected(values, 5, 2, 3) == 1  # C0 * 4 / count = 6
    assert Rule("budget", 5.9).protected(values, 5, 2, 3) == 2
    assert Rule("ratio", 2.0).protected(values, 5, 1, 1) == 2
    for rule in RULES:
        assert rule.protected(torch.zeros(5, dtype=DOUBLE), 5, 1, 1) == 0


@pytest.mark.parametrize(("kind", "value"), [("energy", 1.5), ("fraction", -0.1), ("relative", 2), ("budget", -1)])
def test_rules_refuse_what_makes_no_sense(kind, value):
    with pytest.raises(InputError, match=f"--options.rule.value .* {kind} rule"):
        Rule(kind, value)


def test_nothing_to_protect_and_everything():
    layer, x, y = regression()
    silent = GradientStatistics()
    silent.collect(layer, [(torch.zeros_like(x), y)], mse)
    identity = torch.eye(9, dtype=DOUBLE)
    for rule in RULES:
        assert torch.equal(projector(silent, rule)["weight"](identity), identity)
    full, x, y = regression(rank=9, samples=40)
    closed = projector(gathered(full, x, y), Rule("energy", 0.0))["weight"]
    assert closed.free == 0
    torch.testing.assert_close(closed(identity), torch.zeros_like(identity), rtol=0, atol=1e-10)


def test_a_single_sum_protects_at_most_as_many_directions_as_there_are_outputs():
    """And a thin decomposition of G, which returns only C0 vectors, would miss the null space."""
    layer, x, y = regression(inputs=20, outputs=3, rank=20, samples=50)
    statistics = gathered(layer, x, y, "set")
    project = projector(statistics, Rule("relative", 1e-9))["weight"]
    assert project.free >= 20 - 3
    gradient = torch.autograd.grad(mse(layer, x, y), layer.weight)[0].T  # (C1, C0)
    thin = torch.linalg.svd(gradient, full_matrices=False).U[:, -2:]  # the mistake: its "last k" are not silent
    assert (gradient.T @ thin).norm() > 1e-3 * gradient.norm()
    assert (gradient.T @ project(torch.eye(20, dtype=DOUBLE))).norm() < 1e-10 * gradient.norm()


def test_task_preferred_space_contains_the_feature_null_space():
    layer, x, y = regression(inputs=12, rank=7, samples=30)
    features = GradientStatistics()
    features.collect_features(layer, [(x, None)])
    rule = Rule("relative", 1e-10)
    nsp = projector(features, rule)["weight"]
    per_sample, whole = (projector(gathered(layer, x, y, group), rule)["weight"] for group in ("sample", "set"))
    identity = torch.eye(12, dtype=DOUBLE)
    assert nsp.free == per_sample.free == 5 < whole.free
    for wider in (per_sample, whole):
        torch.testing.assert_close(wider(nsp(identity)), nsp(identity), rtol=0, atol=1e-9)


def test_published_ratio_rule_falls_into_rounding_noise():
    """Rank-deficient covariance in float32: 276 of 576 directions are free, the ratio rule finds a half."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 576, generator=generator)
    layer, statistics = nn.Linear(576, 2, bias=False), GradientStatistics()
    statistics.collect_features(layer, [(x, None)])
    assert projector(statistics, Rule("relative", 1e-5))["weight"].free >= 276
    assert projector(statistics, Rule("energy", 1e-4))["weight"].free >= 276
    assert projector(statistics, Rule("ratio", 10))["weight"].free < 200


def test_soft_projector_is_the_proximal_step():
    layer, x, y = regression(inputs=10, rank=8, samples=30)
    statistics = gathered(layer, x, y)
    soft = projector(statistics, Rule("fraction", 0.4), soft=True)["weight"]
    matrix = statistics.grams["weight"][0].matrix
    cut = torch.linalg.eigvalsh(matrix).flip(0)[4]
    expected = torch.linalg.inv(torch.eye(10, dtype=DOUBLE) + matrix / cut)
    torch.testing.assert_close(soft(torch.eye(10, dtype=DOUBLE)), expected, rtol=1e-6, atol=1e-8)


def test_expected_change_of_the_loss_is_bounded():
    """E[(dl)^2] <= C0 tr(dW M dW^T) / n <= C0 lambda_keep |dW|^2, to first order (reference section 1.2)."""
    layer, x, y = regression(inputs=20, outputs=4, rank=20, samples=60)
    statistics = gathered(layer, x, y)
    project = projector(statistics, Rule("fraction", 0.5))["weight"]
    update = project(torch.randn(4, 20, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)))
    gradients = [torch.autograd.grad(mse(layer, x[i : i + 1], y[i : i + 1]), layer.weight)[0] for i in range(60)]
    change = torch.stack([(g * update).sum() for g in gradients]).square().mean().item()
    matrix = statistics.grams["weight"][0].matrix / 60
    middle = 4 * (update @ matrix @ update.T).trace().item()
    assert change <= middle <= 4 * project.bound / 60 * update.square().sum().item() * (1 + 1e-9)
    assert (project.width, project.free) == (20, 10)


def test_slope_of_the_loss_along_a_projected_step():
    """Second order in the step where the summed gradient is protected; first order without, and for single samples."""
    layer, x, y = regression(inputs=12, rank=12, samples=20)
    project = projector(gathered(layer, x, y, "set"), Rule("relative", 1e-10))["weight"]
    step = torch.randn(4, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))

    def slope(direction, rows=slice(None)):
        def change(t):
            moved = copy.deepcopy(layer)
            moved.weight.data += t * direction
            return abs((mse(moved, x[rows], y[rows]) - mse(layer, x[rows], y[rows])).item())

        return torch.log10(torch.tensor(change(1e-3) / change(1e-4), dtype=DOUBLE)).item()

    assert slope(project(step)) == pytest.approx(2, abs=0.05)
    assert slope(step) == pytest.approx(1, abs=0.05)
    assert slope(project(step), slice(0, 1)) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------- steps

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def two_layers(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(6, 4, 1),
    ).to(DOUBLE)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(2, 3, 5, 5, generator=generator, dtype=DOUBLE)
    new = torch.randn(8, 3, 5, 5, generator=generator, dtype=DOUBLE) + 1
    return model, old, new


def train(model, images, optimizer, projected, steps=6):
    handle = project_updates(optimizer, projected)
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    handle.remove()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_outputs_stay_in_the_feature_null_space_with_frozen_batch_norm(name):
    """NSP with frozen BatchNorm: exact for the whole network, after any number of steps (float64)."""

    def drift(project, batch_norm):
        model, old, new = two_layers()
        statistics = GradientStatistics()
        statistics.collect_features(model, [(old, None)])
        expected, start = model.eval()(old), copy.deepcopy(model.state_dict())
        model.train(batch_norm == "train")
        model[1].requires_grad_(batch_norm == "train")
        # Thin rules would protect everything here: the few positions of two images leave directions that are silent.
        projectors = projector(statistics, Rule("relative", 1e-12))
        assert any(p.free > 0 for p in projectors.values())
        optimizer = OPTIMIZERS[name]([p for p in model.parameters() if p.requires_grad])
        train(model, new, optimizer, for_parameters(model, projectors) if project else [])
        if project:
            project_total(start, model, projectors)
        assert not torch.equal(model[0].weight, start["0.weight"]) or not projectors["0.weight"].free
        return (model.eval()(old) - expected).abs().max().item()

    assert drift(True, "freeze") < 1e-9
    assert drift(False, "freeze") > 1e-3
    assert drift(True, "train") > 1e-3  # running statistics and affine weights are not projected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_total_update_is_silent_weight_decay_and_momentum_included(name):
    layer, x, y = regression(inputs=12, rank=6)
    projectors = projector(gathered(layer, x, y), Rule("relative", 1e-10))
    start = copy.deepcopy(layer.state_dict())
    other = torch.randn(20, 12, dtype=DOUBLE)
    train(layer, other, OPTIMIZERS[name](layer.parameters()), for_parameters(layer, projectors))
    update = layer.weight.detach() - start["weight"]
    assert update.norm() > 1e-2 and (update @ x.T).norm() < 1e-10 * update.norm() * x.norm()


def test_projected_gradient_is_not_a_projected_update():
    """Adam scales every element by itself and leaves the space; SGD without weight decay does not."""

    def outside(make):
        layer, x, y = regression(inputs=12, rank=6)
        project = projector(gathered(layer, x, y), Rule("relative", 1e-10))["weight"]
        start, other = layer.weight.detach().clone(), torch.randn(20, 12, dtype=DOUBLE)
        optimizer = make(layer.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            layer(other).square().mean().backward()
            layer.weight.grad = project(layer.weight.grad)
            optimizer.step()
        update = layer.weight.detach() - start
        return ((update @ x.T).norm() / (update.norm() * x.norm())).item()

    assert outside(lambda p: torch.optim.Adam(p, 0.01)) > 1e-3
    assert outside(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)) < 1e-10
    assert outside(lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1)) > 1e-3


LAYERS = {
    "linear": lambda: nn.Linear(9, 4),
    "convolution": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "groups and bias": lambda: nn.Conv2d(4, 6, (3, 2), groups=2),
    "one by one": lambda: nn.Conv2d(4, 6, 1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("share", "soft"), [(0.2, False), (0.8, False), (1.0, False), (0.5, True)])
def test_steps_in_place_are_the_projected_steps(name, memory_format, share, soft):
    """Whatever the memory order of the weight and the basis that is stored; a soft projector acts on each step once."""
    torch.manual_seed(0)
    layer = LAYERS[name]().to(DOUBLE)
    if name != "linear":
        layer.to(memory_format=memory_format)
    x = torch.randn(30, 9, dtype=DOUBLE) if name == "linear" else torch.randn(30, 4, 3, 3, dtype=DOUBLE)
    y = torch.randn_like(layer(x))
    projectors = projector(gathered(layer, x, y), Rule("fraction", share), soft)
    (_, _, project), groups = for_parameters(layer, projectors)[0], getattr(layer, "groups", 1)
    expected = rows_of(layer.weight, layer.bias, groups).detach().clone()
    start = {key: value.clone(memory_format=torch.contiguous_format) for key, value in layer.state_dict().items()}
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    project_updates(optimizer, for_parameters(layer, projectors))
    for _ in range(3):
        optimizer.zero_grad()
        mse(layer, x, y).backward()
        gradient = rows_of(layer.weight.grad, layer.bias.grad if layer.bias is not None else None, groups)
        expected -= 0.1 * project(gradient)
        optimizer.step()
    torch.testing.assert_close(rows_of(layer.weight, layer.bias, groups).detach(), expected)
    project_total(start, layer, projectors)  # nothing is left to be cleaned
    torch.testing.assert_close(rows_of(layer.weight, layer.bias, groups).detach(), expected)


def test_rounding_does_not_add_up():
    """float32, many steps: what is protected stays where it was, to the rounding of a single step."""
    layer, x, y = regression(inputs=60, rank=20, samples=60)
    layer, x = layer.float(), x.float()
    projectors = projector(gathered(layer, x, y.float()), Rule("fraction", 0.4))
    start = layer.weight.detach().clone()
    project = for_parameters(layer, projectors)[0][2]
    train(layer, torch.randn(20, 60), torch.optim.SGD(layer.parameters(), 0.05), for_parameters(layer, projectors), 300)
    update = layer.weight.detach() - start
    assert (update - project(update)).norm() < 20 * torch.finfo(torch.float32).eps * start.norm() < 1e-3 * update.norm()


def test_half_frozen_layers_are_refused_and_frozen_ones_left_out():
    layer = nn.Linear(9, 4, dtype=DOUBLE)
    projectors = projector(gathered(layer, torch.randn(6, 9, dtype=DOUBLE), torch.randn(6, 4, dtype=DOUBLE)),
                           Rule("fraction", 0.5))  # fmt: skip
    assert for_parameters(layer.requires_grad_(False), projectors) == []
    layer.weight.requires_grad_(True)
    with pytest.raises(InputError, match="weight or the bias of the same layer is frozen"):
        for_parameters(layer, projectors)


def test_steps_that_the_gradient_scaler_skips():
    layer, x, y = regression(inputs=12, rank=6)
    layer, x, y = layer.float(), x.float(), y.float()
    projectors = projector(gathered(layer, x, y), Rule("relative", 1e-6))
    optimizer, scaler = torch.optim.SGD(layer.parameters(), 0.1), torch.amp.GradScaler("cpu")
    project_updates(optimizer, for_parameters(layer, projectors))
    before = layer.weight.detach().clone()
    for factor, moves in ((float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale(factor * layer(torch.randn(20, 12)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.weight, before) is not moves
    update = layer.weight.detach() - before
    assert (update @ x.T).norm() < 1e-4 * update.norm() * x.norm()


def test_a_step_without_a_gradient_and_removed_hooks():
    layer, x, y = regression(inputs=12, rank=6)
    projectors = projector(gathered(layer, x, y), Rule("relative", 1e-10))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    handle = project_updates(optimizer, for_parameters(layer, projectors))
    before = layer.weight.detach().clone()
    optimizer.step()
    assert torch.equal(layer.weight, before)
    handle.remove()
    layer.weight.grad = torch.randn_like(layer.weight)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * layer.weight.grad)


def test_both_bases_give_the_same_projection():
    layer, x, y = regression(inputs=10, rank=10, samples=40)
    statistics = gathered(layer, x, y)
    for protected in (2, 8):
        project = projector(statistics, Rule("fraction", protected / 10))["weight"]
        assert project.holds_free == [protected == 8]
        vectors = torch.linalg.eigh(statistics.grams["weight"][0].matrix)[1]
        free = vectors[:, : 10 - protected]
        update = torch.randn(4, 10, dtype=DOUBLE)
        torch.testing.assert_close(project(update), update @ free @ free.T)
