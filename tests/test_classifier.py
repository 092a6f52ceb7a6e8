"""The network of image labels: heads that losses need not know, growth, and the pre-activation block."""

import math

import pytest
import torch
from torch.nn import functional as F

from css.losses import cross_entropy, kl_divergence
from css.model.classifier import Classifier, width_of
from css.model.encoder_weights import IMAGENET
from tasks import InputError

GROUPS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def network(heads=3, seed=0):
    torch.manual_seed(seed)
    model = Classifier("preact18-4", GROUPS, *IMAGENET)
    for group in GROUPS[:heads]:
        model.grow(group)
    return model


def head_logits(model, images):
    """Logits of every head before the soft-max, (B, C)."""
    features = F.adaptive_avg_pool2d(model.encoder.last(model.encoder(images)[-1]), 1)
    return [head(features)[..., 0, 0] for head in model.classifiers]


@pytest.fixture
def images():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_face(images):
    model = network().eval()
    output = model(images)
    assert output.logits.shape == (5, 9, 1, 1) and output.features.shape == (5, 32, 1, 1)
    assert [tuple(tap.shape[1:]) for tap in output.taps] == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]
    assert model.classes == list(range(1, 10)) and model.head_of().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    pixels = model.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip(*IMAGENET, strict=True)], abs=1e-5)


def test_cross_entropy_is_that_of_the_labels_own_head(images):
    """Plus log(heads), whatever the other heads say; a soft-max over plain logits of all heads is something else."""
    model = network().eval()
    labels = torch.tensor([3, 4, 5, 3, 5])  # channels of the second head
    loss = cross_entropy(model(images).logits, labels.view(-1, 1, 1))
    plain = head_logits(model, images)
    own = F.cross_entropy(plain[1], labels - 3)
    assert loss.item() == pytest.approx(own.item() + math.log(3), abs=1e-5)
    parameters = list(model.encoder.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(own, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    wrong = F.cross_entropy(torch.cat(head_logits(model, images), 1), labels)
    assert wrong.item() != pytest.approx(own.item() + math.log(3), abs=1e-2)


def test_divergence_is_the_mean_over_the_heads(images):
    model, teacher = network(seed=0).eval(), network(seed=1).eval()
    found = kl_divergence(teacher(images).logits, model(images).logits)
    per_head = [
        F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
        for ours, theirs in zip(head_logits(model, images), head_logits(teacher, images), strict=True)
    ]
    assert found.item() == pytest.approx((sum(per_head) / 3).item(), rel=1e-4)


def test_growing():
    model = network(heads=1)
    model.grow(GROUPS[1])
    assert [p.requires_grad for p in model.classifiers.parameters()] == [False, False, True, True]
    model.grow(GROUPS[2])
    assert [head.out_channels for head in model.classifiers] == [3, 3, 3]
    with pytest.raises(ValueError, match=r"\[9\] have a head already"):
        model.grow([9])
    with pytest.raises(ValueError, match="whole heads"):
        network(heads=0).grow([1, 2])
    joint = network(heads=0)
    joint.grow(sum(GROUPS, []))
    assert len(joint.classifiers) == 3 and all(p.requires_grad for p in joint.parameters())


def test_teacher_stays(images):
    model = network()
    teacher = model.frozen()
    before = teacher(images).logits
    model(images).logits.sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(teacher(images).logits, before)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_blocks_are_pre_activated(images):
    """Against the formula with strided convolutions; a block that activates after the sum must differ."""
    torch.manual_seed(0)
    block = network().encoder.stages[1][0].double().eval()  # 4 to 8 channels, stride 2
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for norm in (block.bn1, block.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    a = F.relu(block.bn1(x))
    inner = F.conv2d(a, block.conv1.weight, stride=2, padding=1)
    main = F.conv2d(F.relu(block.bn2(inner)), block.conv2.weight, padding=1)
    expected = F.conv2d(a, block.shortcut.weight, stride=2) + main
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
    assert (block(x) - F.relu(expected)).abs().max() > 1e-2


def test_size_of_the_published_network():
    model = Classifier("preact18", [[*range(10)]], *IMAGENET)
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(11.2e6, rel=0.01)


@pytest.mark.parametrize("name", ["resnet18", "preact18-0", "preact18-", "preact34"])
def test_unknown_networks(name):
    with pytest.raises(InputError, match=r"--model.encoder .* give preact18"):
        width_of(name)
