"""What is kept of features: counts, means, covariances, drawing from them, and carrying them to another space."""

import math

import pytest
import torch

from css.s2mf.moments import FeatureMoments, extend, fit_drift


def features(seed=0, number=4000, channels=3, width=4):
    """Correlated features far from 0, whose mean and spread depend on the channel, and their channels."""
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randint(channels, (number,), generator=generator)
    mix = torch.rand(channels, width, width, generator=generator) / 4
    noise = torch.randn(number, width, generator=generator)
    return 3 + answers[:, None] + (noise[:, None] @ mix[answers])[:, 0], answers


def moments_of(x, answers, channels=3):
    moments = FeatureMoments()
    for some, theirs in zip(x.split(1000), answers.split(1000), strict=True):
        moments.update(some, theirs, channels)
    return moments


def test_moments_of_batches_are_those_of_all_features():
    x, answers = features()
    found = moments_of(x, answers).gaussians()
    for channel in range(3):
        mine = x[answers == channel]
        assert found.counts[channel] == len(mine)
        torch.testing.assert_close(found.mean[channel], mine.mean(0))
        root = found.root[channel]
        torch.testing.assert_close(root @ root.T, torch.cov(mine.T, correction=0), atol=1e-5, rtol=1e-4)


def test_a_later_task_knows_more_channels():
    (x, answers), (y, later) = features(0), features(1, channels=5)
    moments = moments_of(x, answers)
    moments.add(moments_of(y, later, 5))
    expected = moments_of(torch.cat([x, y]), torch.cat([answers, later]), 5)
    torch.testing.assert_close(moments.sums, expected.sums)
    assert moments.counts.tolist() == torch.cat([answers, later]).bincount().tolist()


def test_drawn_features_have_the_moments_and_the_frequency_of_those_seen():
    x, answers = features()
    torch.manual_seed(0)
    drawn = moments_of(x, answers).gaussians().sample(40_000)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x.T), atol=0.03, rtol=0)


def test_drawn_features_are_not_negative():
    x = torch.randn(1000, 4)
    drawn = moments_of(x, torch.zeros(1000).long(), 1).gaussians().sample(500)
    assert (drawn == 0).any() and (drawn >= 0).all()


def test_channels_that_were_seen_once_or_never():
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [5.0, 4.0]])
    drawn = moments_of(x, torch.tensor([0, 2, 2]), 4).gaussians()._replace(counts=torch.tensor([1.0, 0, 0, 0]))
    assert torch.equal(drawn.sample(3), x[:1].expand(3, 2))  # of one feature there is nothing to draw but itself
    drawn = moments_of(x, torch.tensor([0, 2, 2]), 4).gaussians()
    assert drawn.counts.tolist() == [1, 0, 2, 0] and drawn.sample(50).isfinite().all()


def test_drift_of_nothing_is_the_identity():
    x, _ = features()
    assert torch.equal(fit_drift(x, x), torch.eye(5, dtype=torch.float64))


def test_drift_without_features_or_of_silent_ones_is_the_identity():
    for before, after in ((torch.zeros(0, 4), torch.zeros(0, 4)), (torch.zeros(5, 4), torch.zeros(5, 4))):
        assert torch.equal(fit_drift(before, after), torch.eye(5, dtype=torch.float64))


def test_none_are_drawn_of_channels_without_features():
    gaussians = moments_of(torch.zeros(0, 4), torch.zeros(0).long()).gaussians()
    assert gaussians.counts.tolist() == [0, 0, 0] and gaussians.sample(0).shape == (0, 4)


def test_drift_finds_an_affine_map():
    torch.manual_seed(0)
    x = torch.randn(5000, 4) + 1
    after = x @ (torch.eye(4) + 0.3 * torch.randn(4, 4)) + torch.randn(4)
    drift = fit_drift(x, after)
    found = (extend(x).double() @ drift.T)[:, :4].float()
    assert (found - after).norm() < 0.05 * (x - after).norm()  # the ridge costs a little
    assert drift[4].tolist() == [0, 0, 0, 0, 1]


def test_drift_leaves_alone_what_is_not_seen():
    """Where no feature was, least squares would say anything; the ridge says that nothing has moved."""
    x = torch.randn(1000, 4) * torch.tensor([1.0, 1, 0, 0])
    drift = fit_drift(x, 2 * x)
    torch.testing.assert_close(drift[:2, :2], 2 * torch.eye(2).double(), atol=0.02, rtol=0)
    assert torch.equal(drift[:4, 2:4], torch.eye(4)[:, 2:].double())


def test_moved_moments_are_those_of_moved_features():
    x, answers = features()
    drift = fit_drift(x, x @ (torch.eye(4) + 0.2 * torch.randn(4, 4)) + torch.randn(4))
    moved = (extend(x).double() @ drift.T)[:, :4]
    found, expected = moments_of(x, answers).moved(drift), moments_of(moved, answers)
    torch.testing.assert_close(found.sums, expected.sums)
    with pytest.raises(AssertionError):  # a map from the wrong side
        torch.testing.assert_close(moments_of(x, answers).moved(drift.T).sums, expected.sums)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_packed_moments_are_half_as_many_and_the_same(width):
    x, answers = features(width=width)
    found = moments_of(x, answers)
    packed = found.packed()
    assert packed.shape == (3, (width + 1) * (width + 2) / 2) and packed.dtype == torch.float32
    torch.testing.assert_close(FeatureMoments.unpacked(packed).sums, found.sums, rtol=1e-6, atol=0)


def test_moments_of_nothing_are_packed():
    assert FeatureMoments.unpacked(FeatureMoments().packed()).sums.shape == (0, 0, 0)


def test_512_numbers_of_150_classes_are_below_100_megabytes():
    of_one_class = FeatureMoments(torch.zeros(1, 513, 513)).packed()
    assert of_one_class.nbytes < 0.6e6 and 151 * of_one_class.nbytes < 100e6


def test_features_without_a_lowest_value_are_not_cut():
    x = torch.randn(1000, 4)
    drawn = moments_of(x, torch.zeros(1000).long(), 1).gaussians(lowest=-math.inf).sample(500)
    assert (drawn < 0).any()
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.2, rtol=0)
