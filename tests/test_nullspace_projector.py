"""Rules and projectors: which directions are free, what that guarantees, and the mistakes that are easy to make."""

import copy

import pytest
import torch
from small_regression import DOUBLE, gathered, mse, regression
from torch import nn

from css.nullspace import GradientStatistics, Rule, projector
from tasks import InputError

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
    assert (project.basis.shape[1], project.free) == (20, 10)


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
