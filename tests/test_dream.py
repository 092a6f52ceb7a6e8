"""Dreams of a tiny network whose classes are colours, learnt in the test itself."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from css.dream.draw import draw_dreams
from css.dream.dreamer import Dreamer, DreamOptions, accuracy, balanced_cross_entropy
from css.dream.dreamer import _jittered as jittered
from css.dream.layouts import ignore_boundary, sample_layouts
from css.dream.priors import BatchNormMatch, total_variation
from css.model.output import Output
from tasks import InputError

COLOURS = torch.tensor([[0.0, 0.0, 0.0], [1.5, -1, -1], [-1, 1.5, -1], [-1, -1, 1.5]])
OPTIONS = DreamOptions(batch=8, steps=80, lr=0.1, boundary=2, jitter=2)


def pictures(num, seed):
    """Coloured objects on noise, and their maps."""
    labels = sample_layouts(num, 32, [1, 2, 3], seed)
    generator = torch.Generator().manual_seed(seed)
    noise = 0.3 * torch.randn(num, 3, 32, 32, generator=generator)
    return COLOURS[labels.long()].permute(0, 3, 1, 2) + noise, labels


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(60):
        images, labels = pictures(8, step)
        loss = F.cross_entropy(F.interpolate(net(images), (32, 32)), labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = pictures(16, 999)
    assert (F.interpolate(net.eval()(images), (32, 32)).argmax(1) == labels).float().mean() > 0.9
    return net


@pytest.fixture(scope="module")
def dreams(model):
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    found = Dreamer(model, OPTIONS, seed=1).dream(sample_layouts(8, 32, [1, 2, 3], 4))
    assert torch.equal(torch.rand(3), drawn)  # the random numbers of others are not touched
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_pre_hooks for m in model.modules())
    return found


def test_the_model_sees_the_query_in_its_dream(model, dreams):
    scores = F.interpolate(model(dreams.images), (32, 32), mode="bilinear")
    assert accuracy(scores, dreams.queries) > 0.9
    first, last = dreams.history[0], dreams.history[-1]
    assert first["accuracy"] + 0.15 < last["accuracy"] and last["accuracy"] > 0.9
    assert last["ce"] < 0.3 * first["ce"] and last["bn"] < 0.5 * first["bn"]
    assert dreams.images.abs().max() <= 3 and dreams.images.isfinite().all()
    assert (dreams.queries == 255).any()


def test_another_network_of_the_same_classes_recognises_the_dream(dreams):
    """The colours themselves are such a network: dreams are not noise that only fools their own."""
    means = torch.stack([dreams.images.permute(0, 2, 3, 1)[dreams.queries == c].mean(0) for c in range(1, 4)])
    assert torch.cdist(means, COLOURS[1:]).argmin(1).tolist() == [0, 1, 2]


def test_same_seed_same_dreams(model):
    maps, quick = sample_layouts(8, 32, [1, 2, 3], 4), DreamOptions(batch=4, steps=6)
    one, again, two = (Dreamer(model, quick, seed).dream(maps) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images) and one.history == again.history
    assert not torch.equal(one.images, two.images)
    assert not torch.equal(one.images[:4], one.images[4:])  # every batch starts from noise of its own


def test_coarse_steps_first_and_refreshed_queries(model):
    options = DreamOptions(batch=4, steps=40, lr=0.1, boundary=2, jitter=2, coarse_share=0.5, refresh=0.9)
    queries = sample_layouts(4, 64, [1, 2, 3], 4)
    found = Dreamer(model, options).dream(queries)
    assert found.images.shape == (4, 3, 64, 64) and found.queries.shape == (4, 64, 64)
    changed = found.queries != ignore_boundary(queries, 2)
    assert 0 < changed.float().mean() < 0.5


def test_classes_instead_of_maps():
    """A classifier, here of the strongest colour: one query per image, the same code."""
    colour = nn.Conv2d(3, 3, 1, bias=False)
    colour.weight.data = 3 * torch.eye(3)[:, :, None, None]
    net = nn.Sequential(colour, nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    queries = torch.tensor([0, 1, 2, 2, 1, 0], dtype=torch.uint8)[:, None, None]
    found = Dreamer(net, DreamOptions(steps=30, bn_weight=0.1)).dream(queries, size=16)
    assert found.images.shape == (6, 3, 16, 16)
    assert torch.equal(net.eval()(found.images).argmax(1), queries[:, 0, 0].long())
    assert found.history[0]["accuracy"] < 1 == found.history[-1]["accuracy"]


def test_matching_single_values_drives_images_to_a_constant():
    """The trap in Eq. 9 read literally: (l_i(X) - mu)^2 for each value, not for the mean, leaves no variance."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3).eval()
    layer.running_mean.fill_(0.5)

    def spread(literal):
        x = torch.randn(8, 3, 8, 8, requires_grad=True)
        optimizer = torch.optim.Adam([x], 0.05)
        for _ in range(100):
            with BatchNormMatch(layer, variance=False) as match:
                layer(x)
                loss = match.take()
            if literal:
                loss = (x - 0.5).square().mean((0, 2, 3)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert (x.mean() - 0.5).abs() < 0.1  # both match the mean
        return x.std().item()

    assert spread(literal=True) < 0.1 and spread(literal=False) > 0.8


def test_few_values_per_channel_count_little():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3).eval()
    terms = []
    for size in (1, 16):
        with BatchNormMatch(layer, variance=False) as match:
            layer(torch.full((4, 3, size, size), 2.0))
            terms.append(match.take().item())
            assert match.take() == 0.0
    # The means differ by 2, the spread is 1, in each of three channels.
    assert terms[1] == pytest.approx(2, rel=1e-4) and terms[0] == pytest.approx(2 * 4 / 1024, rel=1e-4)


def test_balanced_cross_entropy_by_hand():
    """Nine pixels of class 0 and one of class 1 count the same; ignored ones do not count."""
    scores = torch.zeros(1, 3, 1, 11)
    scores[0, 1, 0, 9] = 2.0
    queries = torch.tensor([[[0] * 9 + [1] + [255]]], dtype=torch.uint8)
    common = torch.log(torch.tensor(3.0))
    rare = -torch.tensor([0.0, 2.0, 0.0]).log_softmax(0)[1]
    assert balanced_cross_entropy(scores, queries).item() == pytest.approx(((common + rare) / 2).item())
    assert accuracy(scores, queries).item() == pytest.approx(1.0)


def test_a_network_without_batch_norm(capsys):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    Dreamer(net, DreamOptions(steps=2)).dream(sample_layouts(3, 32, [1, 2, 3], 0))
    assert "no BatchNorm" in capsys.readouterr().err


class Explodes(nn.Module):
    def __init__(self, from_call):
        super().__init__()
        self.calls, self.from_call = 0, from_call
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * (float("nan") if self.calls == self.from_call or self.from_call == 0 else 1.0)


def test_dreams_that_are_not_finite():
    queries = sample_layouts(3, 32, [1, 2, 3], 0)
    once = Explodes(3)
    assert Dreamer(once, DreamOptions(steps=5)).dream(queries).images.isfinite().all()
    assert once.calls == 3 + 5  # begun again
    with pytest.raises(InputError, match=r"--options.dream.lr"):
        Dreamer(Explodes(0), DreamOptions(steps=5)).dream(queries)


def test_picture(tmp_path):
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[255] = (10, 20, 30), (200, 200, 200)
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    queries = torch.tensor([0, 1, 255], dtype=torch.uint8)[:, None, None].expand(-1, 8, 8)
    images = (pixels / 255 - mean) / std
    draw_dreams(tmp_path / "dreams.png", images, queries, palette, mean, std, queries.flip(0), most=2)
    drawn = np.asarray(Image.open(tmp_path / "dreams.png"))
    assert drawn.shape == (24, 16, 3)
    assert (drawn[:8, 8:] == pixels[1].permute(1, 2, 0).numpy()).all()
    assert (drawn[8:16, 8:] == palette[1]).all() and (drawn[16:, :8] == palette[255]).all()


class Network(nn.Module):
    """Not trained; `output` turns logits at half the size into what the network returns."""

    def __init__(self, output=lambda logits: logits):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.output, self.shapes = output, []
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 0.25))

    def forward(self, x):
        self.shapes.append((x.shape[0], x.shape[-1]))
        return self.output(self.body(x))


@pytest.fixture(scope="module")
def queries():
    return sample_layouts(8, 32, [1, 2, 3], seed=7)


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails, queries):
    network = Network((lambda logits: logits * float("nan")) if fails else (lambda logits: logits)).train()
    network.body[1].eval()
    network.body[3].weight.requires_grad_(False)
    network.body[1].register_forward_pre_hook(lambda *_: None)
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    wanted, hooks = [p.requires_grad for p in network.parameters()], len(network.body[1]._forward_pre_hooks)
    if fails:
        with pytest.raises(InputError):
            Dreamer(network, OPTIONS).dream(queries)
    else:
        Dreamer(network, DreamOptions(steps=3, refresh=0.1)).dream(queries)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == wanted
    assert all(p.grad is None for p in network.parameters())
    assert len(network.body[1]._forward_pre_hooks) == hooks


def test_images_stay_in_the_range_of_photographs(queries):
    options, network = DreamOptions(steps=5, lr=50.0), Network()
    images = Dreamer(network, options).dream(queries[:2]).images
    assert images.min() == pytest.approx(-2) and images.max() == pytest.approx(2)  # black and white
    del network.pixel_mean
    assert Dreamer(network, options).dream(queries[:2]).images.abs().max() == 3


def test_weights_of_the_terms(queries):
    """Variation and norm fall only where they have a weight; the variances count only where they are asked for."""
    network = Network(lambda logits: 0 * logits)

    def dreams(**weights):
        options = {"bn_weight": 0.0, "tv_weight": 0.0, "l2_weight": 0.0, **weights}
        return Dreamer(network, DreamOptions(steps=20, jitter=0, **options)).dream(queries[:2])

    plain, smooth, small = (dreams(**weights).images for weights in ({}, {"tv_weight": 1.0}, {"l2_weight": 1.0}))
    assert total_variation(smooth) < 0.5 * total_variation(plain)
    assert small.norm() < 0.5 * plain.norm()
    means, variances = (dreams(bn_weight=1.0, variance=variance).history[0]["bn"] for variance in (False, True))
    assert means != pytest.approx(variances, rel=0.01)


def test_output_with_logits(queries):
    plain, wrapped = Network(), Network(lambda logits: Output(logits, logits, ()))
    wrapped.load_state_dict(plain.state_dict())
    images = [Dreamer(network, DreamOptions(steps=3)).dream(queries).images for network in (plain, wrapped)]
    assert torch.equal(*images)


def test_queries_without_places():
    network, classes = Network(lambda logits: logits.mean((2, 3))), torch.tensor([0, 3, 1])
    dreams = Dreamer(network, DreamOptions(steps=40, bn_weight=0.0)).dream(classes, size=32)
    assert dreams.images.shape == (3, 3, 32, 32) and torch.equal(dreams.queries, classes)
    assert dreams.history[-1]["ce"] < dreams.history[0]["ce"]
    with pytest.raises(ValueError, match="below 255"):
        Dreamer(network).dream(torch.tensor([255]), size=32)


def test_second_attempt_has_a_tenth_of_the_learning_rate(queries):
    calls = iter([float("nan")])
    network = Network()
    expected = Dreamer(network, DreamOptions(steps=4, lr=0.01)).dream(queries)
    network.output = lambda logits: logits * next(calls, 1.0)
    found = Dreamer(network, DreamOptions(steps=4, lr=0.1)).dream(queries)
    assert torch.equal(found.images, expected.images) and found.history == expected.history


def test_half_resolution_first_and_batches_of_one_size():
    """A last batch of few images would have BatchNorm statistics of little meaning."""
    network, maps = Network(), sample_layouts(5, 64, [1, 2], seed=0)
    dreams = Dreamer(network, DreamOptions(batch=4, steps=10, coarse_share=0.3)).dream(maps)
    assert network.shapes == [(3, 32)] * 3 + [(3, 64)] * 7 + [(2, 32)] * 3 + [(2, 64)] * 7
    assert dreams.images.shape == (5, 3, 64, 64)


@pytest.mark.parametrize("coarse_share", [0.0, 0.75])
def test_only_confident_pixels_are_refreshed(coarse_share, queries):
    """Class 1 with confidence on the left, no opinion on the right."""

    def opinion(logits):
        left = torch.arange(logits.shape[-1]) < logits.shape[-1] // 2
        return 0 * logits + 20.0 * F.one_hot(torch.tensor(1), 4).view(1, 4, 1, 1) * left

    options = {"steps": 4, "boundary": 2, "coarse_share": coarse_share}
    kept = Dreamer(Network(opinion), DreamOptions(**options)).dream(queries).queries
    fresh = Dreamer(Network(opinion), DreamOptions(**options, refresh=0.9)).dream(queries).queries
    assert torch.equal(kept, ignore_boundary(queries, 2))
    assert torch.equal(fresh[..., 18:], kept[..., 18:])
    left, before = fresh[..., :14], kept[..., :14]
    assert torch.equal(left == 255, before == 255) and set(left.unique().tolist()) == {1, 255}
    assert (before == 0).any() and (before == 2).any()


def test_image_and_query_move_together(queries):
    images, generator = queries[:, None].float().expand(-1, 3, -1, -1), torch.Generator().manual_seed(0)
    moved = [jittered(images, queries, 3, generator) for _ in range(30)]
    assert all(torch.equal(seen[:, 0].byte(), maps) for seen, maps in moved)
    assert sum(torch.equal(maps, queries) for _, maps in moved) < 10
    still = [jittered(images, queries, 0, generator)[1] for _ in range(30)]
    flipped = sum(torch.equal(maps, queries.flip(2)) for maps in still)
    assert 5 < flipped < 25 and flipped + sum(torch.equal(maps, queries) for maps in still) == 30


def test_classes_count_alike_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[0, 0, 0], labels[1, 2:] = 2, 255
    losses = -logits.log_softmax(1)
    expected = (losses[:, 0][labels == 0].mean() + losses[0, 2, 0, 0]) / 2
    torch.testing.assert_close(balanced_cross_entropy(logits, labels), expected, rtol=1e-12, atol=0)
    assert abs(F.cross_entropy(logits, labels.long(), ignore_index=255) - expected) > 0.01  # every pixel alike
    assert balanced_cross_entropy(logits, labels.fill_(255)) == 0


def test_deviations_are_relative_to_the_statistics_of_their_layer():
    layer, images = nn.BatchNorm2d(2).eval(), torch.zeros(4, 2, 32, 32)
    layer.running_mean.copy_(torch.tensor([3.0, 4.0]))
    layer.running_var.copy_(torch.tensor([9.0, 16.0]))
    with BatchNormMatch(layer, variance=False) as means, BatchNormMatch(layer, variance=True) as both:
        layer(images)
        assert means.take().item() == pytest.approx(5 / 25**0.5, rel=1e-4)
        assert both.take().item() == pytest.approx(1 + 1, rel=1e-4)  # no variance where there should be one


def test_dead_channels_and_layers_without_statistics():
    """A layer that never saw anything but one value has no spread to compare with, but still a finite deviation."""
    dead, without = nn.BatchNorm2d(2).eval(), nn.BatchNorm2d(2, track_running_stats=False)
    dead.running_var.zero_()
    with BatchNormMatch(nn.Sequential(dead, without), variance=True) as match:
        dead(torch.ones(1, 2, 4, 4))
        assert match.layers == [dead] and match.take().isfinite()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("count", 0),
        ("batch", 0),
        ("steps", 0),
        ("lr", 0.0),
        ("jitter", -1),
        ("coarse_share", 1.0),
        ("refresh", 1.5),
        ("bn_weight", -0.5),
        ("tv_weight", -0.5),
        ("l2_weight", -0.5),
        ("boundary", -1),
    ],
)
def test_options_that_do_not_fit(flag, value):
    with pytest.raises(InputError, match=f"--options.dream.{flag.replace('_', '-')} {value}"):
        DreamOptions(**{flag: value})
