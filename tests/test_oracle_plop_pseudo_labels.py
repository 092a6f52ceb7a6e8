"""Entropy thresholds, pseudo labels and weighted cross-entropy against the official implementation of PLOP."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plop_baseline.pseudo_labels import (
    EntropyHistogram,
    confident_prediction,
    entropy,
    entropy_thresholds,
    pseudo_label,
    weighted_cross_entropy,
)

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "plop_pseudo_labels.npz", allow_pickle=False)
CASES = pytest.mark.parametrize("case", range(int(ARCHIVE["n_cases"])))


def array(case, name):
    return torch.from_numpy(ARCHIVE[f"case{case}_{name}"])


def number(case, name):
    return ARCHIVE[f"case{case}_{name}"].item()


def sizes(case):
    return number(case, "nb_old_classes"), number(case, "nb_current_classes")


def batches(case):
    return [(array(case, f"logits_old_{i}"), array(case, f"labels_{i}")) for i in range(number(case, "n_batches"))]


def thresholds(case, mode):
    return entropy_thresholds(batches(case), *sizes(case), number(case, "base_threshold"), mode)


def assert_close(actual, expected, atol=0.0, rtol=0.0):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False, equal_nan=True)


@CASES
def test_entropy(case):
    actual = entropy(array(case, "train_logits_old"), sizes(case)[1])
    assert_close(actual, array(case, "train_entropy_normalised"), atol=1e-6)


@CASES
def test_histogram(case):
    histogram = EntropyHistogram(*sizes(case))
    for logits, labels in batches(case):
        histogram.update(logits, labels)
    assert histogram.bins == number(case, "nb_bins")
    assert torch.equal(histogram.counts, array(case, "histogram"))
    assert torch.equal(histogram.counts.sum(dim=1), array(case, "count_per_class"))


@CASES
def test_histogram_counts_background_only(case):
    """Negative control: void and new-class pixels would change the counts."""
    histogram = EntropyHistogram(*sizes(case))
    for logits, labels in batches(case):
        histogram.update(logits, torch.zeros_like(labels))
    assert not torch.equal(histogram.counts, array(case, "histogram"))


@CASES
def test_official_thresholds(case):
    actual = thresholds(case, "official")
    assert actual.dtype == torch.float32
    assert_close(actual, array(case, "thresholds_official"), atol=1e-6)


@CASES
def test_median_thresholds(case):
    floor = number(case, "base_threshold")
    median = array(case, "median_true").nan_to_num(0.0)
    actual = thresholds(case, "median")
    assert actual.dtype == torch.float32
    assert_close(actual, median.clamp(min=floor), atol=1e-6)
    without_floor = entropy_thresholds(batches(case), *sizes(case), floor=0.0, mode="median")
    assert_close(without_floor, median, atol=1e-6)


def test_the_modes_and_the_two_medians_differ():
    """Negative control: neither the official arithmetic nor the lower middle value is the paper's median."""
    cases = range(int(ARCHIVE["n_cases"]))
    for case in cases:
        assert not torch.allclose(thresholds(case, "official"), thresholds(case, "median"), atol=1e-6)
    lower = [(array(c, "median_true") - array(c, "median_true_lower")).nan_to_num(0.0).abs().max() for c in cases]
    assert max(lower) > 1e-5


def labelled(case):
    old_logits, labels = array(case, "train_logits_old"), array(case, "train_labels")
    return pseudo_label(old_logits, labels, array(case, "thresholds_official"), sizes(case)[1])


@CASES
def test_masks(case):
    old_logits = array(case, "train_logits_old")
    _, certain = confident_prediction(old_logits, array(case, "thresholds_official"), sizes(case)[1])
    assert torch.equal(certain, array(case, "train_mask_valid_pseudo"))
    targets, _ = labelled(case)
    background = array(case, "train_mask_background")
    assert torch.equal(targets[~background], array(case, "train_labels")[~background])


@CASES
def test_targets_and_factor(case):
    targets, factor = labelled(case)
    assert targets.dtype == array(case, "train_labels").dtype
    assert torch.equal(targets, array(case, "train_targets"))
    assert_close(factor, array(case, "train_adaptive_factor"), atol=1e-6)


@CASES
def test_all_steps_together(case):
    """The thresholds computed here give the published pseudo labels, too; int64 labels as well as uint8."""
    targets, _ = pseudo_label(
        array(case, "train_logits_old"),
        array(case, "train_labels").long(),
        thresholds(case, "official"),
        sizes(case)[1],
    )
    assert torch.equal(targets, array(case, "train_targets").long())


@CASES
def test_cross_entropy_and_gradient(case):
    logits = array(case, "train_logits_new").requires_grad_()
    loss = weighted_cross_entropy(logits, array(case, "train_targets"), array(case, "train_adaptive_factor"))
    loss.backward()
    expected, gradient = array(case, "train_ce"), array(case, "train_ce_grad")
    assert_close(loss.detach(), expected, rtol=1e-5)
    assert_close(logits.grad, gradient, atol=1e-5 * gradient.abs().max().item())


@CASES
def test_plausible_cross_entropies_fail(case):
    """Negative control: the mean over valid pixels, and one factor for the whole batch."""
    logits, targets, factor = (array(case, f"train_{k}") for k in ("logits_new", "targets", "adaptive_factor"))
    expected = array(case, "train_ce").item()
    over_valid = weighted_cross_entropy(logits, targets, factor) * targets.numel() / (targets != 255).sum()
    one_factor = weighted_cross_entropy(logits, targets, factor.mean().expand_as(factor))
    for wrong in (over_valid, one_factor):
        assert wrong.item() != pytest.approx(expected, rel=1e-4)
