"""Running statistics of BatchNorm measured anew."""

import copy

import pytest
import torch
from torch import nn

from css.fusion.reestimate import reestimate_batch_norm
from css.model.batchnorm import group_batch_norm
from css.model.segmenter import Segmenter


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


def two_layers(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    return model, torch.randn(12, 3, 4, 4) * torch.linspace(0.5, 2, 12).view(-1, 1, 1, 1)


def population_error(model, images):
    """Largest distance of the deeper layer's statistics to those of its input in the network as it is now."""
    with torch.no_grad():
        inputs = model[:4].eval()(images).transpose(0, 1).flatten(1)
    layer = model[4]
    return max((layer.running_mean - inputs.mean(1)).abs().max(), (layer.running_var - inputs.var(1)).abs().max())


def test_deeper_layers_are_close_with_several_batches():
    model, images = two_layers()
    images = images[torch.randperm(12)]
    untouched = population_error(copy.deepcopy(model), images)
    reestimate_batch_norm(model, images.split(4))
    several = population_error(model, images)
    exact = copy.deepcopy(model)
    reestimate_batch_norm(exact, [images])
    assert several < 0.2 * untouched and population_error(exact, images) < 2e-3 * untouched


def test_groups_make_no_difference():
    """css.batchnorm's groups keep the statistics of the first group alone in training; here every value counts."""
    model, images = two_layers()
    grouped = copy.deepcopy(model)
    group_batch_norm(grouped, 5)
    reestimate_batch_norm(model, images.split(6))
    reestimate_batch_norm(grouped, images.split(6))
    for name, value in model.state_dict().items():
        assert torch.equal(grouped.state_dict()[name], value)
    trained = copy.deepcopy(grouped).train()
    trained[1].momentum = 1.0
    trained(images)
    assert (trained[1].running_mean - grouped[1].running_mean).abs().max() > 1e-2  # the control: group 1 alone


@pytest.mark.parametrize("sizes", [[4, 1], [1, 4], [1]])
def test_a_batch_may_be_a_single_image(sizes):
    """The pooling branch of ASPP then sees one value per channel, which PyTorch refuses in training."""
    torch.manual_seed(0)
    model = Segmenter("tu-test_resnet")
    model.grow([0, 1])
    before = copy.deepcopy(model.state_dict())
    reestimate_batch_norm(model, torch.randn(sum(sizes), 3, 64, 64).split(sizes))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.training and all(not module._forward_pre_hooks for module in model.modules()
                                  if isinstance(module, nn.BatchNorm2d))  # fmt: skip
    for name, value in model.state_dict().items():
        if not name.endswith(("running_mean", "running_var")):
            assert torch.equal(value, before[name])
    assert model.eval()(torch.randn(1, 3, 64, 64)).logits.isfinite().all()
