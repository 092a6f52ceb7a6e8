"""Projected steps of an optimiser: what they leave alone, exactness, and the mistakes that are easy to make."""

import copy

import pytest
import torch
from small_regression import DOUBLE, gathered, mse, regression
from torch import nn

from css.nullspace import GradientStatistics, Rule, for_parameters, project_total, project_updates, projector
from css.nullspace.layers import rows_of
from tasks import InputError

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
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False),
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
        assert project.holds_free is (protected == 8)
        vectors = torch.linalg.eigh(statistics.grams["weight"][0].matrix)[1]
        free = vectors[:, : 10 - protected]
        update = torch.randn(4, 10, dtype=DOUBLE)
        torch.testing.assert_close(project(update), update @ free @ free.T)


@pytest.mark.parametrize(("silent", "holds_free"), [(5, False), (1, True)])
def test_groups_with_different_numbers_of_free_directions(silent, holds_free):
    """All groups of a layer share one tensor, the smaller ones filled up: each is projected as it would be alone."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, (1, 4), groups=2, bias=False).to(DOUBLE)  # two groups of 12 inputs
    x = torch.randn(40, 6, 1, 4, dtype=DOUBLE)
    x.flatten(2)[:, 0], x.flatten(1)[:, 12 : 12 + 2 * silent] = 0, 0  # of the first group 4, of the second more
    statistics = GradientStatistics()
    statistics.collect_features(layer, [(x, None)])
    project = projector(statistics, Rule("relative", 1e-9))["weight"]
    assert project.protected == [8, 12 - 2 * silent] and project.holds_free is holds_free
    update = torch.randn(2, 2, 12, dtype=DOUBLE)
    for group, gram in enumerate(statistics.grams["weight"]):
        free = torch.linalg.eigh(gram.matrix)[1][:, : 12 - project.protected[group]]
        torch.testing.assert_close(project(update)[group], update[group] @ free @ free.T)
