"""Label-guided distillation, pseudo labels, the selective rule and the feature term, against the code of MBS."""

import torch
from oracle_archive import Archive, assert_close, differs
from torch.nn import functional as F

from plop_baseline.label_guided import (
    background_scores,
    confident_labels,
    guided_target,
    label_guided_distillation,
    scored_feature_distance,
    selective_labels,
)
from plop_baseline.lwf import distillation

ARCHIVE = Archive("lgkd_losses")
CASES, array, number = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.number


def student(case):
    return array(case, "logits_new").requires_grad_()


def kd_map(case, logits):
    return label_guided_distillation(logits, array(case, "logits_old"), array(case, "labels"), number(case, "alpha"))


def selected(case):
    old = array(case, "logits_old")
    return selective_labels(old, confident_labels(old, array(case, "labels"), number(case, "threshold")))


def assert_gradient(value, leaf, expected):
    assert_close(torch.autograd.grad(value, leaf)[0], expected)


@CASES
def test_target(case):
    logits = array(case, "logits_old")
    target = guided_target(logits, array(case, "labels"), array(case, "logits_new").shape[1], number(case, "alpha"))
    assert_close(target, array(case, "kd_target"))
    assert_close(target.sum(1), torch.ones(target[:, 0].shape))


@CASES
def test_distillation(case):
    logits = student(case)
    found = kd_map(case, logits)
    assert_close(found, array(case, "kd_map"))
    assert_close(found.mean(), number(case, "kd"))
    assert_gradient(found.mean(), logits, array(case, "kd_grad"))


@CASES
def test_without_labels_it_is_lwf(case):
    logits = student(case)
    plain = distillation(logits, array(case, "logits_old"), number(case, "alpha")).mean()
    assert_close(plain, number(case, "plain_kd"))
    assert_gradient(plain, logits, array(case, "plain_kd_grad"))
    assert differs(plain, number(case, "kd"))


@CASES
def test_labels(case):
    old, labels = array(case, "logits_old"), array(case, "labels")
    pseudo = confident_labels(old, labels, number(case, "threshold"))
    assert torch.equal(pseudo, array(case, "pseudo_labels"))
    assert torch.equal(selective_labels(old, pseudo), array(case, "selective_labels"))
    assert not torch.equal(selective_labels(old, labels), array(case, "selective_labels"))  # the order matters


@CASES
def test_total(case):
    """Cross-entropy over pixels that are not void, and the distillation with the labels as they were."""
    logits = student(case)
    ce = F.cross_entropy(logits, selected(case).long(), ignore_index=255)
    assert_close(ce, number(case, "ce"))
    total = ce + number(case, "kd_weight") * kd_map(case, logits).mean()
    assert_close(total, number(case, "total"))
    assert_gradient(total, logits, array(case, "total_grad"))


@CASES
def test_feature_term(case):
    new, old = array(case, "map_features_new").requires_grad_(), array(case, "map_features_old")
    scores = background_scores(array(case, "map_mask_logits"), array(case, "map_labels"))
    assert_close(scores, array(case, "map_score"))
    value = scored_feature_distance(new, old, scores)
    assert_close(value, number(case, "map_loss"))
    assert_gradient(value, new, array(case, "map_grad"))


def test_no_place_with_a_score():
    """The official code divides 0 by 0."""
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = scored_feature_distance(features, torch.zeros_like(features), torch.zeros(2, 4, 4))
    value.backward()
    assert value == 0 and not features.grad.any()


@CASES
def test_plausible_mistakes_fail(case):
    """The guide left out on new pixels; void given to a class; divided by the old classes; void counted in the mean."""
    logits, old, labels = array(case, "logits_new"), array(case, "logits_old"), array(case, "labels")
    channels, alpha = logits.shape[1], number(case, "alpha")
    unguided = guided_target(old, torch.zeros_like(labels), channels, alpha)
    clamped = guided_target(old, labels.clamp(max=channels - 1), channels, alpha)
    for wrong in (unguided, clamped):
        assert differs(wrong, array(case, "kd_target"))
    by_old = kd_map(case, logits) * channels / old.shape[1]
    assert differs(by_old, array(case, "kd_map"))
    over_all = F.cross_entropy(logits, selected(case).long(), ignore_index=255, reduction="sum") / labels.numel()
    assert differs(over_all, number(case, "ce"))
