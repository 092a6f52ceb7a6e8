"""Pseudo labels beyond the official numbers: quirks of the threshold arithmetic, medians, edge cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plop_baseline.pseudo_labels import (
    EntropyHistogram,
    entropy,
    entropy_thresholds,
    pseudo_label,
    weighted_cross_entropy,
)
from tasks.errors import InputError


def random_batch(seed, num_old=4, size=(2, 9, 7), spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(size[0], num_old, *size[1:], generator=generator)
    labels = torch.tensor([0, 0, 0, num_old, 255])[torch.randint(5, size, generator=generator)]
    return logits, labels.to(torch.uint8)


def official(**counts_by_bin):
    """Threshold of class 0 when its pixels lie in the given bins: b3=5 puts 5 pixels into bin 3."""
    histogram = EntropyHistogram(num_old=2, num_seen=3)
    for name, count in counts_by_bin.items():
        histogram.counts[0, int(name[1:])] = count
    return histogram.thresholds(floor=1e-3)[0].item()


def test_entropy_range():
    flat, sure = torch.zeros(1, 16, 1, 1), torch.zeros(1, 16, 1, 1)
    sure[0, 3] = 100
    assert entropy(flat, 17).item() == pytest.approx(1 / (16 * math.log(17)), rel=1e-5)  # 0.0221, not 1
    assert entropy(sure, 17).item() == pytest.approx(0, abs=1e-7)
    assert entropy(flat.bfloat16(), 17).dtype == torch.float32


def test_confident_class_keeps_nearly_everything_in_the_official_mode():
    """Most pixels in bin 0: the threshold is half / count_0 of one bin width, whatever their entropy within it."""
    assert official(b0=1000, b2=10) == pytest.approx(0.01 * 505 / 1000)


def test_official_sum_adds_the_number_of_the_bin_not_its_count():
    # Bins 1 and 2 hold 10 each, half = 10. Bin 0: 0 <= 10 <= 0 fails; bin 1: 0 <= 10 <= 0 + 10 stops.
    assert official(b1=10, b2=10) == pytest.approx(0.01 + 0.01 * 10 / 10)
    # Bin 1 holds 4, bin 4 holds 16: sums before bins 2, 3, 4 are 1, 3, 6 (a true running sum has 4). Stop at bin 4.
    assert official(b1=4, b4=16) == pytest.approx(0.04 + 0.01 * (10 - 6) / 16)


def test_official_lookup_is_one_bin_too_low_at_29():
    # All 900 pixels in bin 28, half = 450. Before bin 28 the sum is 378, so it stops there: no quirk yet.
    assert official(b28=900) == pytest.approx(0.28 + 0.01 * (450 - 378) / 900)
    # 500 pixels in bin 29 and 312 in bin 98 (half 406 = sum before bin 29): bin 28 is looked up and is empty, 0 / 0.
    assert math.isnan(official(b29=500, b98=312))


def test_official_arithmetic_that_never_stops():
    assert official(b20=5000, b40=5001, b50=5002) == math.inf  # half 7501.5 above every sum and bin, the last is empty
    assert official(b50=4) == pytest.approx(1e-3)  # the sum has passed half (2) before bin 50: -inf, then the floor
    assert math.isnan(official(b50=2))  # the sum hits half (1) at the empty bin 2: 0 / 0, and no pixel is below NaN


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), num_old=st.integers(2, 9), spread=st.sampled_from([0.1, 1.0, 5.0]))
def test_median_mode_is_the_median(seed, num_old, spread):
    num_seen = num_old + 2
    logits, labels = random_batch(seed, num_old, spread=spread)
    actual = entropy_thresholds([(logits, labels)], num_old, num_seen, floor=0.0, mode="median")
    u, predicted = entropy(logits.double(), num_seen), logits.argmax(dim=1)
    for c in range(num_seen):
        values = u[(labels == 0) & (predicted == c)]
        expected = values.quantile(0.5).item() if len(values) else 0.0
        assert actual[c].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["official", "median"])
def test_histograms_of_processes_add_up(mode):
    whole = EntropyHistogram(4, 6, mode)
    parts = [EntropyHistogram(4, 6, mode) for _ in range(2)]
    for seed in range(4):
        whole.update(*random_batch(seed))
        parts[seed % 2].update(*random_batch(seed))
    assert not torch.equal(parts[0].counts, whole.counts)
    parts[0].counts += parts[1].counts
    assert torch.equal(parts[0].thresholds(), whole.thresholds())
    assert torch.equal(whole.thresholds(), entropy_thresholds(map(random_batch, range(4)), 4, 6, mode=mode))


@pytest.mark.parametrize("mode", ["official", "median"])
def test_no_background_at_all_gives_the_floor(mode):
    logits, labels = random_batch(0)
    result = entropy_thresholds([(logits, torch.full_like(labels, 255))], 4, 6, floor=0.25, mode=mode)
    assert torch.equal(result, torch.full((6,), 0.25))


def test_unknown_mode():
    with pytest.raises(InputError, match=r"'mean'.*official or median"):
        EntropyHistogram(4, 6, "mean")


def test_image_without_background():
    logits, labels = random_batch(0)
    labels[0], labels[1] = 4, 0
    everything = torch.full((6,), math.inf)
    assert pseudo_label(logits, labels, everything, 6)[1].tolist() == pytest.approx([0, 1])
    assert pseudo_label(logits, labels, everything, 6, no_background_factor=1.0)[1].tolist() == pytest.approx([1, 1])
    nothing = torch.zeros(6)  # an image with background but without certainty is not repaired
    assert pseudo_label(logits, labels, nothing, 6, no_background_factor=1.0)[1].tolist() == [1, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0, 0.1))
def test_pseudo_labels_touch_the_background_only(seed, threshold):
    logits, labels = random_batch(seed)
    targets, factor = pseudo_label(logits, labels, torch.full((6,), threshold), 6)
    background = labels == 0
    assert torch.equal(targets[~background], labels[~background])
    certain = entropy(logits, 6) < torch.tensor(threshold)
    assert torch.equal(targets[background & certain], logits.argmax(dim=1).to(torch.uint8)[background & certain])
    assert (targets[background & ~certain] == 255).all()
    for b in range(len(labels)):
        share = (background & certain)[b].sum() / max(1, background[b].sum())
        assert factor[b].item() == pytest.approx(share.item(), abs=1e-5)


def test_cross_entropy_of_void_images_is_zero():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), torch.ones(2))
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert weighted_cross_entropy(logits, torch.ones(2, 4, 4, dtype=torch.long), torch.ones(2)).dtype == torch.float32
