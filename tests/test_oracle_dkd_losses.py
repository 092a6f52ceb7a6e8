"""Losses, start and decision of DKD against its official implementation."""

import pytest
import torch
from oracle_archive import Archive, assert_close, differs, resized
from torch import nn
from torch.nn import functional as F

from plop_baseline.dkd import start_from
from plop_baseline.dkd_losses import Rows, auxiliary_loss, decomposed_distillation, dkd_terms
from plop_baseline.sigmoid_rows import hard_bce, soft_bce, subtract_background

ARCHIVE = Archive("dkd_losses")
CASES, array, number = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.number
NAMES = ("mbce", "kd", "pos", "neg")
LEAVES = ("features", "aux_weight", "aux_bias", "old_weight", "old_bias", "new_weight", "new_bias")


def leaves(case):
    """What has a gradient, by the name that the archive gives the gradient."""
    sources = ("features_new", "aux_weight", "aux_bias", "new_old_weight", "new_old_bias", "new_new_weight",
               "new_new_bias")  # fmt: skip
    return {name: array(case, source).requires_grad_() for name, source in zip(LEAVES, sources, strict=True)}


def old_rows(case):
    return Rows(array(case, "old_weight"), array(case, "old_bias"))


def small_logits(given):
    """Of the auxiliary row, which gives the features no gradient, and of all classes."""
    auxiliary = Rows(given["aux_weight"], given["aux_bias"]).logits(given["features"].detach())
    rows = Rows(
        torch.cat([given["old_weight"], given["new_weight"]]), torch.cat([given["old_bias"], given["new_bias"]])
    )
    return torch.cat([auxiliary, rows.logits(given["features"])], 1)


def terms(case, given, logits=None):
    size = array(case, "image_size")
    full = resized(small_logits(given) if logits is None else logits, size)
    old_features = array(case, "features_old")
    found = dkd_terms(
        given["features"], old_features, full[:, 1:], resized(old_rows(case).logits(old_features), size),
        array(case, "labels"), Rows(given["old_weight"], given["old_bias"]), old_rows(case), number(case, "pos_weight"),
    )  # fmt: skip
    return found | {"ac": auxiliary_loss(full[:, :1])}


def total(case, found):
    return sum(w * found[name].sum() for name, w in zip((*NAMES, "ac"), array(case, "weights"), strict=True))


@CASES
def test_terms_of_every_row(case):
    found = terms(case, leaves(case))
    for name in NAMES:
        assert_close(found[name], array(case, f"{name}_per_class"))
    assert_close(found["ac"], array(case, "ac_per_class").sum())


@CASES
def test_logits(case):
    assert_close(small_logits(leaves(case)), array(case, "logits_small"))
    both = Rows(
        torch.cat([array(case, "aux_weight_old"), array(case, "old_weight")]),
        torch.cat([array(case, "aux_bias_old"), array(case, "old_bias")]),
    )
    assert_close(both.logits(array(case, "features_old")), array(case, "logits_small_old"))


@CASES
def test_total_and_gradients(case):
    given = leaves(case)
    value = total(case, terms(case, given))
    assert_close(value, array(case, "total"))
    value.backward()
    for name, leaf in given.items():
        assert_close(leaf.grad, array(case, f"grad_{name}"))


@CASES
def test_gradient_of_the_logits(case):
    given = leaves(case)
    logits = small_logits(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(total(case, terms(case, given, logits)), logits)
    assert_close(gradient, array(case, "grad_logits_small"))


@CASES
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_one_term(case, name):
    given = leaves(case)
    (gradient,) = torch.autograd.grad(terms(case, given)[name].sum(), given["features"])
    assert_close(gradient, array(case, f"{name}_grad_features"))


@CASES
def test_the_auxiliary_row_moves_no_feature(case):
    given = leaves(case)
    terms(case, given)["ac"].backward()
    assert not given["features"].grad.any()
    assert given["aux_weight"].grad.abs().sum() > 0


@CASES
def test_first_task(case):
    features, size, labels = array(case, "features_old"), array(case, "image_size"), array(case, "first_labels")
    auxiliary = Rows(array(case, "aux_weight_old"), array(case, "aux_bias_old"))
    per_class = hard_bce(resized(old_rows(case).logits(features), size), labels, 1, number(case, "first_pos_weight"))
    ac = auxiliary_loss(resized(auxiliary.logits(features), size))
    assert_close(per_class, array(case, "first_mbce_per_class"))
    assert_close(ac, array(case, "first_ac"))
    weights = array(case, "weights")
    assert_close(weights[0] * per_class.sum() + weights[-1] * ac, array(case, "first_total"))


@CASES
def test_start_of_new_rows(case):
    weight, bias = array(case, "init_new_weight"), array(case, "init_new_bias")
    newest, auxiliary = nn.Conv2d(weight.shape[1], len(bias), 1).double(), nn.Conv2d(weight.shape[1], 1, 1).double()
    with torch.no_grad():
        auxiliary.weight.copy_(array(case, "aux_weight")[:, :, None, None])
        auxiliary.bias.copy_(array(case, "aux_bias"))
    start_from(newest, auxiliary)
    assert torch.equal(newest.weight[:, :, 0, 0], weight) and torch.equal(newest.bias, bias)


@CASES
def test_decision_is_the_arg_max_over_a_zero_row_and_the_classes(case):
    logits = array(case, "rule_logits")
    scores = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, 1:]], 1)
    assert torch.equal(scores.argmax(1), array(case, "rule_prediction").long())
    assert not torch.equal(logits.argmax(1), array(case, "rule_prediction").long())  # the auxiliary row plays no part


@CASES
def test_subtracting_the_background_changes_no_soft_max(case):
    """A first task learnt with cross-entropy becomes one with a zero row."""
    new, old = array(case, "new_new_weight"), array(case, "old_weight")
    classifiers = nn.ModuleList(nn.Conv2d(w.shape[1], len(w), 1).double() for w in (old, new))
    features = array(case, "features_old")
    before = torch.cat([classifier(features) for classifier in classifiers], 1).detach()
    subtract_background(classifiers)
    after = torch.cat([classifier(features) for classifier in classifiers], 1).detach()
    assert not after[:, 0].any()
    assert differs(after, before)
    torch.testing.assert_close(after.softmax(1), before.softmax(1), rtol=1e-12, atol=1e-15)
    state = [p.clone() for p in classifiers.parameters()]
    subtract_background(classifiers)  # once more changes nothing
    assert all(torch.equal(p, before) for p, before in zip(classifiers.parameters(), state, strict=True))


@CASES
def test_float32(case):
    """bfloat16 and float32 runs compute the same thing."""
    given = {name: leaf.detach().float() for name, leaf in leaves(case).items()}
    size, f_old = array(case, "image_size"), array(case, "features_old").float()
    old = Rows(*(part.float() for part in old_rows(case)))
    full = resized(small_logits(given), size)
    found = dkd_terms(given["features"], f_old, full[:, 1:], resized(old.logits(f_old), size), array(case, "labels"),
                      Rows(given["old_weight"], given["old_bias"]), old, number(case, "pos_weight"))  # fmt: skip
    for name in NAMES:
        assert_close(found[name], array(case, f"{name}_per_class"), rtol=2e-5)


@CASES
def test_plausible_mistakes_fail(case):
    """Void left out; the weights' parts with the bias; the parts at full size; classes averaged."""
    given = leaves(case)
    size, labels, f_old = array(case, "image_size"), array(case, "labels"), array(case, "features_old")
    full = resized(small_logits(given), size)[:, 1:]
    known = number(case, "nb_old_classes")
    valid = (labels != 255).unsqueeze(1)
    one_hot = F.one_hot(labels.long().clamp(max=full.shape[1]), full.shape[1] + 1).movedim(-1, 1)[:, known:]
    bce = F.binary_cross_entropy_with_logits(
        full[:, known - 1 :], one_hot.double(), reduction="none", pos_weight=array(case, "pos_weight")
    )
    without_void = (bce * valid).sum((0, 2, 3)) / valid.sum()
    assert differs(without_void, array(case, "mbce_per_class"))
    rows, old = Rows(given["old_weight"], given["old_bias"]), old_rows(case)
    with_bias = soft_bce(
        rows.positive(given["features"]) + rows.bias[:, None, None], old.positive(f_old) + old.bias[:, None, None]
    )
    at_full_size = soft_bce(resized(rows.positive(given["features"]), size), resized(old.positive(f_old), size))
    swapped = decomposed_distillation(given["features"], f_old, rows, old)[1]
    for wrong in (with_bias, at_full_size, swapped):
        assert differs(wrong, array(case, "pos_per_class"))
    averaged = sum(w * t.mean() for w, t in zip(array(case, "weights"), terms(case, given).values(), strict=True))
    assert differs(averaged, array(case, "total"))


def test_void_alone():
    """Every pixel is a negative of the new classes; nothing is divided by a number of pixels that may be 0."""
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = hard_bce(logits, torch.full((1, 4, 4), 255), 3).sum()
    loss.backward()
    assert loss.item() == pytest.approx(2 * torch.tensor(2.0).log().item()) and (logits.grad > 0).all()
