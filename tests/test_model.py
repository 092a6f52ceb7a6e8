"""The network: shapes, growth, taps, the frozen teacher, pixel statistics."""

import copy
import math

import pytest
import torch
from torch import nn

from css.model.segmenter import Segmenter
from css.model.state import only
from tasks import InputError

TINY = "tu-test_resnet"


def images(count=2, side=64, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def segmenter(encoder=TINY, groups=((0, 7, 3), (9,))):
    torch.manual_seed(0)
    model = Segmenter(encoder)
    for group in groups:
        model.grow(list(group))
    return model


@pytest.fixture(scope="module")
def resnet():
    """A ResNet-18 whose running statistics come from a few batches. Shared: tests that change it take a copy."""
    model = segmenter("resnet18").train()
    with torch.no_grad():
        for seed in range(3):
            model(images(seed=seed))
    return model.eval()


@pytest.mark.parametrize("encoder", [TINY, "tu-tf_efficientnet_lite0"])
def test_shapes(encoder):
    model = segmenter(encoder)
    output = model(torch.randn(2, 3, 64, 96))
    assert output.logits.shape == (2, 4, 4, 6)
    assert output.features.shape == (2, 256, 4, 6)
    assert [tap.shape[2:] for tap in output.taps] == [(16, 24), (8, 12), (4, 6), (4, 6)]  # the last stage is dilated


def test_growth_adds_channels_and_keeps_the_old_ones():
    model = segmenter(groups=[(0, 7, 3)])
    before = [parameter.clone() for parameter in model.classifiers[0].parameters()]
    model.grow([9, 2])
    assert model.classes == [0, 7, 3, 9, 2]
    assert [classifier.out_channels for classifier in model.classifiers] == [3, 2]
    weight, bias = model.classifiers[0].parameters()
    assert torch.equal(weight, before[0]) and torch.equal(bias[1:], before[1][1:])
    assert bias[0].item() == pytest.approx(before[1][0].item() - math.log(3))


def test_a_class_has_one_classifier():
    with pytest.raises(ValueError, match=r"\[7\]"):
        segmenter().grow([5, 7])
    with pytest.raises(ValueError, match="zero"):
        segmenter().grow([5], init="zero")


def probabilities(model):
    with torch.no_grad():
        return model.eval()(images()).logits.softmax(1)


def is_kept(before, after):
    """Whether old classes have their probabilities, and background and new classes together that of the background."""
    num_old = before.shape[1]
    together = after[:, :1] + after[:, num_old:].sum(1, keepdim=True)
    return torch.allclose(torch.cat([together, after[:, 1:num_old]], 1), before, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_new", [1, 5])
@pytest.mark.parametrize("groups", [[(0, 7, 3)], [(0, 7, 3), (9,)]])
def test_balanced_growth_keeps_the_probabilities(groups, num_new):
    model = segmenter(groups=groups)
    before = probabilities(model)
    model.grow(range(20, 20 + num_new))
    after = probabilities(model)
    assert is_kept(before, after)
    torch.testing.assert_close(after[:, -num_new:], before[:, :1].expand(-1, num_new, -1, -1) / (num_new + 1))
    with torch.no_grad():
        model.classifiers[0].bias[0] += math.log(num_new + 1)
    assert not is_kept(before, probabilities(model))  # the background itself must be lowered, too


def test_random_growth_does_not_keep_them():
    model = segmenter()
    before, bias = probabilities(model), model.classifiers[0].bias.clone()
    model.grow([20], init="random")
    assert not is_kept(before, probabilities(model))
    assert torch.equal(model.classifiers[0].bias, bias)


def last_block_before_relu(encoder, stage):
    """The sum that the last block of a stage activates, by hand, from the pixels on."""
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(images()))))
    for number in range(1, stage + 1):
        x = getattr(encoder, f"layer{number}")(x)
    *earlier, block = getattr(encoder, f"layer{stage + 1}")
    for other in earlier:
        x = other(x)
    inner = torch.relu(block.bn1(block.conv1(x)))
    return block.bn2(block.conv2(inner)) + x, block.bn1(block.conv1(x))


@pytest.mark.parametrize("stage", range(4))
def test_taps_of_a_resnet_are_before_the_last_activation(resnet, stage):
    with torch.no_grad():
        tap = resnet(images()).taps[stage]
        expected, first_call = last_block_before_relu(resnet.encoder, stage)
        after = resnet.encoder(images())[-4:][stage]
    torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tap, first_call, atol=0.01)  # the block calls its activation twice
    assert tap.min() < 0 and after.min() >= 0
    torch.testing.assert_close(tap.relu(), after, rtol=0, atol=0)


def test_taps_of_another_encoder_are_its_features():
    model = segmenter().eval()
    with torch.no_grad():
        for tap, features in zip(model(images()).taps, model.encoder(images())[-4:], strict=True):
            assert torch.equal(tap, features)


def test_gradients_reach_a_tap():
    model = segmenter("resnet18")
    model(images()).taps[0].square().mean().backward()
    assert model.encoder.layer1[-1].conv2.weight.grad.abs().sum() > 0
    assert model.encoder.layer2[0].conv1.weight.grad is None


def test_teacher_is_frozen_and_in_evaluation_mode():
    model = segmenter().train()
    teacher = model.frozen()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_teacher_does_not_follow_the_model(resnet):
    model = copy.deepcopy(resnet)
    teacher = model.frozen()
    with torch.no_grad():
        before = teacher(images())
        model.train().grow([20])
        for parameter in model.parameters():
            parameter.add_(0.01)
        model(images())
        after = teacher(images())
    assert teacher.classes == [0, 7, 3, 9]
    assert torch.equal(before.logits, after.logits)


def test_taps_of_copies_stay_apart(resnet):
    """A hook that held on to the original would write the taps of a copy into it."""
    original = copy.deepcopy(resnet).eval()
    copied = copy.deepcopy(original)
    with torch.no_grad():
        expected = original(images(seed=1)).taps
        original.encoder(images(seed=0))  # leaves its taps behind
        found = copied(images(seed=1)).taps
        left_behind = original(images(seed=0)).taps
    for tap, alone, other in zip(found, expected, left_behind, strict=True):
        assert torch.equal(tap, alone) and not torch.equal(tap, other)


def test_normalise(resnet):
    model = resnet
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, 1] = 255
    x = model.normalise(pixels)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x[0, :, 0, 0], -mean / std)
    torch.testing.assert_close(x[0, :, 1, 0], (1 - mean) / std)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)


def test_normalise_for_weights_made_for_another_range():
    x = segmenter("tu-tf_efficientnet_lite0").normalise(torch.tensor([0, 127, 255]).to(torch.uint8).expand(1, 3, 1, 3))
    torch.testing.assert_close(x[0, 0, 0], torch.tensor([-1, 127 / 127.5 - 1, 1]), rtol=1e-5, atol=1e-6)


def test_pixel_statistics_are_no_part_of_a_checkpoint():
    assert not [name for name in segmenter().state_dict() if "pixel" in name]


def test_decoder_is_initialised_as_for_relu():
    """Kaiming uniform: bound sqrt(6 / fan in). PyTorch's default, which smp leaves, is sqrt(1 / fan in)."""
    convolutions = [module for module in segmenter().decoder.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) >= 5
    for convolution in convolutions:
        bound = math.sqrt(6 / convolution.weight[0].numel())
        assert 0.98 * bound < convolution.weight.abs().max() <= bound


# Each network refuses in its own way: ValueError, TypeError, AssertionError with and without a message.
@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("nonsense", "'nonsense' is unknown; give resnet50"), ("", "'' is unknown; give resnet50"),
        ("resnet5", "'resnet5' is unknown; give resnet50 or resnet152"), ("tu-nonsense", "Unknown model"),
        ("tu-resnet50.nonsense", "Invalid pretrained tag"), ("vgg11", "do not support dilated mode"),
        ("tu-densenet121", "it has no dilated form"), ("tu-ghostnet_100", "no dilated form"),
        ("tu-vgg11_bn", "AssertionError without a reason"), ("tu-", "Unknown model"),
    ],
)  # fmt: skip
def test_encoder_that_cannot_be_built(encoder, says):
    with pytest.raises(InputError, match=says) as caught:
        Segmenter(encoder)
    assert str(caught.value).startswith("--model.encoder ") and encoder in str(caught.value)
    assert "\n" not in str(caught.value) and "resnet50" in str(caught.value)


def test_a_map_that_is_not_what_it_is_said_to_be(monkeypatch):
    class Shrinking(nn.Module):
        out_channels = (3, 8)

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 8, 1)

        def forward(self, images):
            return [images, self.layer(images)[:, :, ::32, ::32]]

    monkeypatch.setattr("css.model.encoders.get_encoder", lambda *_, **__: Shrinking())
    with pytest.raises(InputError, match=r"last map of 64 pixels is \(8, 2, 2\), not \(8, 4, 4\)"):
        Segmenter("tu-shrinking")


def test_parameters_without_a_gradient_are_frozen():
    """Else several processes would wait for gradients that never come: EfficientNets keep parts of their old head."""
    model = segmenter("efficientnet-b0")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["encoder._conv_head.weight", "encoder._bn1.weight", "encoder._bn1.bias"]
    output = model(images())
    (output.logits.sum() + sum(tap.sum() for tap in output.taps)).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(parameter.requires_grad for parameter in segmenter("resnet18").parameters())


def test_trying_an_encoder_out_changes_nothing():
    """Neither the random numbers that follow nor the running statistics, the first time and later."""
    from segmentation_models_pytorch.encoders import get_encoder

    from css.model import encoders

    encoders._unused.clear()
    states = []
    for build in (encoders.build_encoder, encoders.build_encoder, lambda name: get_encoder(name, output_stride=16)):
        torch.manual_seed(0)
        encoder = build(TINY)
        states.append([*encoder.state_dict().values(), torch.rand(3)])
        assert encoder.training
    for state in states[1:]:
        assert all(torch.equal(*pair) for pair in zip(states[0], state, strict=True))


def test_resnet50_and_tu_resnet50_are_two_networks():
    """smp dilates the first 3x3 of the last stage, timm does not; the taps differ, too (docs/encoders.md)."""
    smp, timm = Segmenter("resnet50"), Segmenter("tu-resnet50")
    assert smp.encoder.layer4[0].conv2.dilation == (2, 2)
    assert timm.encoder.model.layer4[0].conv2.dilation == (1, 1)
    assert smp.encoder.layer4[1].conv2.dilation == timm.encoder.model.layer4[1].conv2.dilation == (2, 2)
    for model, is_negative in ((smp, True), (timm, False)):
        model.grow([0])
        assert bool(min(tap.min() for tap in model(images()).taps) < 0) is is_negative


def test_only_parts_are_trained_for_a_while():
    """What was not trained before is not trained after, a part of it or an error notwithstanding."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), only(model, model[0], model[2]):
        assert [p.requires_grad for p in model.parameters()] == [True, True, False, False, True, True]
        raise ZeroDivisionError
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
