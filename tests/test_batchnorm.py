"""BatchNorm over groups against separate BatchNorms, one per group, as several processes would have them."""

import copy

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from css.model.batchnorm import group_batch_norm, hold


def batch(images=6, seed=0):
    """Images of very different mean and spread, so that it matters which ones are normalised together."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, images + 1).view(-1, 1, 1, 1)
    return torch.randn(images, 3, 4, 5, generator=generator) * scale + scale


def net(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    nn.init.uniform_(model[1].weight, 0.5, 2)
    nn.init.uniform_(model[1].bias)
    return model


def grouped(model, group):
    model = copy.deepcopy(model)
    group_batch_norm(model, group)
    return model


@pytest.mark.parametrize("group", [2, 3])
def test_groups_are_separate_batches(group):
    plain, x = net(), batch()
    expected = torch.cat([copy.deepcopy(plain)(part) for part in x.split(group)])
    torch.testing.assert_close(grouped(plain, group)(x), expected, rtol=0, atol=0)
    assert (copy.deepcopy(plain)(x) - expected).abs().max() > 0.1  # the whole batch together is something else


def test_running_statistics_follow_the_first_group():
    """As those of the first of several processes, which is the one that is saved."""
    plain, x = net(), batch()
    group_model, first, whole = grouped(plain, 2), copy.deepcopy(plain), copy.deepcopy(plain)
    for step in range(3):
        group_model(x + step), first((x + step)[:2]), whole(x + step)
    assert torch.equal(group_model[1].running_mean, first[1].running_mean)
    assert torch.equal(group_model[1].running_var, first[1].running_var)
    assert not torch.allclose(group_model[1].running_mean, whole[1].running_mean, rtol=0.01)
    assert group_model[1].momentum == plain[1].momentum


def test_gradients_are_the_sum_over_separate_batches():
    plain, x = net(), batch()
    weights = torch.randn(6, 4, 4, 5)
    group_model, separate, whole = grouped(plain, 3), copy.deepcopy(plain), copy.deepcopy(plain)
    (group_model(x) * weights).sum().backward()
    (whole(x) * weights).sum().backward()
    for part, weight in zip(x.split(3), weights.split(3), strict=True):
        (separate(part) * weight).sum().backward()
    for ours, theirs in zip(group_model.parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(group_model[1].weight.grad, whole[1].weight.grad, rtol=0.01)


def test_gradient_by_finite_differences():
    model = grouped(net(), 2).double()
    x = batch(4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x).square(), x)


def test_evaluation_is_plain_batch_norm():
    plain, x = net(), batch()
    plain(x)  # running statistics that are not the initial ones
    model = grouped(plain, 2)
    assert torch.equal(model.eval()(x), plain.eval()(x))


def test_a_batch_no_larger_than_a_group_is_plain():
    plain, x = net(), batch(3)
    assert torch.equal(grouped(plain, 3)(x), copy.deepcopy(plain)(x))
    assert torch.equal(grouped(plain, 8)(x), copy.deepcopy(plain)(x))


def test_parameters_keep_their_names_and_a_second_call_sets_the_size():
    plain = net()
    model = grouped(plain, 2)
    assert model.state_dict().keys() == plain.state_dict().keys()
    group_batch_norm(model, 3)
    torch.testing.assert_close(model(batch()), grouped(plain, 3)(batch()), rtol=0, atol=0)


def test_batch_norm_that_holds_the_activation_keeps_it():
    """timm's EfficientNets activate inside a subclass of BatchNorm2d."""
    torch.manual_seed(0)
    encoder = get_encoder("tu-tf_efficientnet_lite0", weights=None)
    x = torch.randn(4, 3, 32, 32)
    halves = [copy.deepcopy(encoder)(part) for part in x.split(2)]
    for ours, first, second in zip(grouped(encoder, 2)(x), *halves, strict=True):
        torch.testing.assert_close(ours, torch.cat([first, second]), rtol=1e-4, atol=1e-4)


def held_step(mode):
    """One step on a batch far from the running statistics; the layer before and after, and what requires gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).train()
    model[1].weight.data.uniform_(0.5, 2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with hold(model, mode):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
        output = model(torch.randn(8, 3, 6, 6) + 5.0)
        output.square().mean().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(parameter.requires_grad for parameter in model.parameters())
    return output, changed, before


CONVOLUTIONS = {"0.weight", "0.bias", "2.weight", "2.bias"}
AFFINE, STATISTICS = {"1.weight", "1.bias"}, {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


@pytest.mark.parametrize(
    ("mode", "moving"),
    [("train", CONVOLUTIONS | AFFINE | STATISTICS), ("freeze-stats", CONVOLUTIONS | AFFINE), ("freeze", CONVOLUTIONS)],
)
def test_hold_keeps_what_its_name_says(mode, moving):
    _, changed, _ = held_step(mode)
    # In training mode the bias before a BatchNorm has no gradient but weight decay's.
    assert changed == moving


def test_hold_normalises_with_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3)).train()
    images = torch.randn(8, 3, 6, 6) + 5.0
    expected = model.eval()(images)
    for mode in ("freeze", "freeze-stats"):
        with hold(model.train(), mode):
            assert torch.equal(model(images), expected)
    with hold(model.train(), "train"):
        assert (model(images) - expected).abs().mean() > 1


def test_hold_reaches_grouped_and_other_batch_norms_and_ends_with_an_error():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3))
    group_batch_norm(model, 2)
    with pytest.raises(KeyError), hold(model.train(), "freeze"):
        assert not model[0].training and not model[1].training and not model[0].weight.requires_grad
        raise KeyError
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_hold_leaves_what_was_frozen_before():
    model = nn.Sequential(nn.BatchNorm2d(3)).requires_grad_(False)
    with hold(model, "freeze"):
        pass
    assert not any(parameter.requires_grad for parameter in model.parameters())
