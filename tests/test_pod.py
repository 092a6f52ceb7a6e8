"""Local POD beyond the official numbers: rectangles, any size, gradients at zero, precision, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plop_baseline.pod import local_pod, pod_loss
from tasks.errors import InputError


def embedding_by_loops(x, scales):
    height, width = x.shape[2:]
    parts = []
    for s in scales:
        k_h, k_w = height // s, width // s
        for i in range(s):
            for j in range(s):
                region = x[:, :, i * k_h : (i + 1) * k_h, j * k_w : (j + 1) * k_w]
                parts += [region.mean(3).flatten(1), region.mean(2).flatten(1)]
    return torch.cat(parts, dim=1)


def maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(4, 21),
    width=st.integers(4, 21),
    scales=st.sampled_from([(1, 2, 4), (1,), (2, 3), (4, 1), (1, 2, 3, 4)]),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_embedding_equals_loops_over_regions(height, width, scales, channels_last, seed):
    (x,) = maps((2, 3, height, width), seed=seed)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(local_pod(x, scales), embedding_by_loops(x, scales), rtol=1e-12, atol=1e-14)


def test_sides_are_not_exchanged():
    (x,) = maps((1, 2, 8, 12))
    assert local_pod(x).shape == (1, 7 * 2 * (8 + 12))
    assert not torch.allclose(local_pod(x), local_pod(x.transpose(2, 3)))


@pytest.mark.parametrize("size", [(8, 12), (7, 9)], ids=["nested", "remainder"])
def test_embedding_gradient(size):
    (x,) = maps((1, 2, *size))
    assert torch.autograd.gradcheck(local_pod, x.requires_grad_())


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 13), width=st.integers(4, 13), seed=st.integers(0, 99))
def test_loss_is_the_distance_of_two_embeddings(height, width, seed):
    shape = (2, 3, height, width)
    old, new, old_logits, new_logits = maps(shape, shape, shape, (2, 5, height, width), seed=seed)
    collapsed = new_logits[:, :3].clone()
    collapsed[:, 0] += new_logits[:, 3:].sum(dim=1)

    def distance(a, b):
        return (local_pod(a.square()) - local_pod(b.square())).norm(dim=1).mean()

    expected = (5 / 2) ** 0.5 * (0.3 * distance(old, new) + 0.2 * distance(old_logits, collapsed)) / 2
    loss = pod_loss([old, old_logits], [new, new_logits], num_seen=5, num_new=2, factor=0.3, logits_factor=0.2)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("size", [(8, 8), (6, 6), (7, 9), (21, 4)], ids=str)
def test_gradient_is_that_of_two_embeddings(size, monkeypatch):
    """Whatever the parts are that a map is worked on in: whole batches, images, rows; and nothing given is changed."""
    old, new, logits = maps((3, 5, *size), (3, 5, *size), (3, 2, *size))
    new = new.to(memory_format=torch.channels_last).requires_grad_()
    kept = old.clone(), new.detach().clone()
    expected = (local_pod(old.square()) - local_pod(new.square())).norm(dim=1).mean()
    (slope,) = torch.autograd.grad(expected, new)
    for block in (1, 5 * size[1] * 2, 10**6):
        monkeypatch.setattr("plop_baseline.regions.BLOCK", block)
        loss = pod_loss([old, logits], [new, logits], num_seen=1, num_new=1, factor=2)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, new)[0], slope)
    assert torch.equal(old, kept[0]) and torch.equal(new, kept[1])


def test_equal_maps_have_zero_loss_and_zero_gradient():
    """The first iteration of a task: the new model is still the old one, only the logits differ."""
    feature, logits, new_logits = maps((2, 3, 8, 8), (2, 4, 8, 8), (2, 5, 8, 8))
    new = [feature.clone().requires_grad_(), new_logits.requires_grad_()]
    pod_loss([feature, logits], new, num_seen=5, num_new=1).backward()
    assert torch.equal(new[0].grad, torch.zeros_like(feature))
    assert new[1].grad.abs().sum() > 0 and new[1].grad.isfinite().all()


def test_one_equal_image_does_not_spoil_the_gradient_of_the_others():
    old, logits = maps((2, 3, 8, 8), (2, 4, 8, 8))
    new = old.clone()
    new[1] += 1
    new.requires_grad_()
    pod_loss([old, logits], [new, logits], num_seen=4, num_new=1).backward()
    assert torch.equal(new.grad[0], torch.zeros_like(old[0]))
    assert new.grad[1].abs().sum() > 0 and new.grad.isfinite().all()


def test_bf16_maps_are_compared_in_float32():
    old, new, logits = (x.bfloat16() for x in maps((2, 3, 8, 8), (2, 3, 8, 8), (2, 4, 8, 8)))
    loss = pod_loss([old, logits], [new, logits], num_seen=4, num_new=1)
    exact = pod_loss([old.double(), logits.double()], [new.double(), logits.double()], num_seen=4, num_new=1)
    assert loss.dtype == local_pod(old).dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-7)  # bf16 arithmetic is good to 4e-3
    halves = [x.half() * 1000 for x in (old, new)]  # their squares overflow in fp16
    assert pod_loss([halves[0], logits], [halves[1], logits], num_seen=4, num_new=1).isfinite()


def test_map_smaller_than_the_largest_scale():
    with pytest.raises(InputError, match=r"8 x 3 map.*--train\.crop"):
        local_pod(torch.zeros(1, 2, 8, 3))


def test_maps_that_do_not_match():
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="equal shape"):
        pod_loss([x[:, :1], x], [x, x], num_seen=3, num_new=1)  # would be broadcast
    with pytest.raises(ValueError):
        pod_loss([x, x], [x, x, x], num_seen=3, num_new=1)
