"""Statistics of the null space: identities, edge cases, and the mistakes that are easy to make."""

import copy

import pytest
import torch
from small_regression import DOUBLE, gathered, mse, regression
from torch import nn
from torch.nn import functional as F

from css.model.dilation import SparseTapConv2d
from css.nullspace import GradientStatistics, Rule, projector
from css.nullspace.layers import input_rows, rows_of, split_rows
from tasks import InputError

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
    statistics.require_fit(layer)
    for other in (nn.Linear(9, 4), nn.Linear(8, 4, bias=False), nn.Sequential(layer)):
        with pytest.raises(InputError, match="another architecture"):
            statistics.require_fit(other)
