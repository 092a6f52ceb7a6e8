"""Unbiased cross-entropy and unbiased distillation against the official implementation of MiB."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from css.model.output import Output
from plop_baseline.mib import Mib, MibOptions, unbiased_cross_entropy, unbiased_distillation

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "mib_losses.npz", allow_pickle=False)
CASES = pytest.mark.parametrize("case", range(int(ARCHIVE["n_cases"])))


def array(case, name):
    return torch.from_numpy(ARCHIVE[f"case{case}_{name}"])


def number(case, name):
    return ARCHIVE[f"case{case}_{name}"].item()


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-14)


def student(case):
    return array(case, "logits_new").requires_grad_()


def gradient_of(value, logits):
    return torch.autograd.grad(value, logits)[0]


def cross_entropy_map(case, logits, mask=None):
    return unbiased_cross_entropy(logits, array(case, "targets"), number(case, "nb_old_classes"), mask)


def distillation_map(case, logits, mask=None):
    return unbiased_distillation(logits, array(case, "logits_old"), number(case, "alpha"), mask)


@CASES
def test_cross_entropy_map(case):
    logits = student(case)
    loss = cross_entropy_map(case, logits)
    assert_close(loss.detach(), array(case, "unce_map"))
    assert_close(gradient_of(loss.mean(), logits), array(case, "unce_grad_of_map_mean"))


@CASES
def test_cross_entropy_mean_over_valid_pixels(case):
    logits = student(case)
    loss = cross_entropy_map(case, logits).sum() / (array(case, "targets") != 255).sum()
    assert_close(loss.detach(), array(case, "unce_mean"))
    assert_close(gradient_of(loss, logits), array(case, "unce_grad_of_mean"))


@CASES
def test_masked_cross_entropy(case):
    logits = student(case)
    loss = cross_entropy_map(case, logits, array(case, "mask"))
    assert_close(loss.detach(), array(case, "unce_masked_map"))
    assert_close(gradient_of(loss.mean(), logits), array(case, "unce_masked_grad"))


@CASES
def test_distillation_map(case):
    logits = student(case)
    loss = distillation_map(case, logits)
    assert_close(loss.detach(), array(case, "unkd_map"))
    assert_close(loss.mean().detach(), array(case, "unkd_mean"))
    assert_close(gradient_of(loss.mean(), logits), array(case, "unkd_grad"))


@CASES
def test_masked_distillation(case):
    logits = student(case)
    loss = distillation_map(case, logits, array(case, "mask"))
    assert_close(loss.detach(), array(case, "unkd_masked_map"))
    assert_close(loss.mean().detach(), array(case, "unkd_masked_mean"))
    assert_close(gradient_of(loss.mean(), logits), array(case, "unkd_masked_grad"))


@CASES
def test_preset(case):
    """The method itself, on a model that answers with the archive's logits; up-sampling makes them float32."""
    logits, old = student(case), array(case, "logits_old")
    answer, old_answer = (Output(x, x, ()) for x in (logits, old))
    task = SimpleNamespace(old_classes=range(number(case, "nb_old_classes")))
    mib = Mib()
    assert mib.options == MibOptions(number(case, "preset_kd_weight"), number(case, "alpha"))
    terms = mib.losses(task, lambda _: answer, lambda _: old_answer, None, array(case, "targets"))
    for name, term in terms.items():
        assert term.item() == pytest.approx(number(case, f"preset_{name}_term"), rel=1e-5)
    gradient, expected = gradient_of(sum(terms.values()), logits), array(case, "preset_grad")
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@CASES
def test_float32_and_labels_of_any_integer_type(case):
    logits, old = array(case, "logits_new").float(), array(case, "logits_old").float()
    ce = unbiased_cross_entropy(logits, array(case, "targets").long(), number(case, "nb_old_classes"))
    kd = unbiased_distillation(logits, old, number(case, "alpha"))
    for actual, expected in ((ce, array(case, "unce_map")), (kd, array(case, "unkd_map"))):
        torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-6)


@CASES
def test_plausible_mistakes_fail(case):
    """Negative control: plain cross-entropy; plain distillation; a mask the wrong way round; the other reduction."""
    logits, targets, old = (array(case, name) for name in ("logits_new", "targets", "logits_old"))
    plain = F.cross_entropy(logits, targets.long(), ignore_index=255, reduction="none")
    assert not torch.allclose(plain, array(case, "unce_map"), rtol=1e-3)
    num_old = number(case, "nb_old_classes")
    renormalised = -(old.softmax(1) * logits[:, :num_old].log_softmax(1)).mean(1)
    not_divided = num_old * distillation_map(case, logits)
    for wrong in (renormalised, not_divided):
        assert not torch.allclose(wrong, array(case, "unkd_map"), rtol=1e-3)
    inverted = ~array(case, "mask")
    assert not torch.allclose(cross_entropy_map(case, logits, inverted), array(case, "unce_masked_map"))
    assert not torch.allclose(distillation_map(case, logits, inverted), array(case, "unkd_masked_map"))
    assert number(case, "unce_mean") != pytest.approx(array(case, "unce_map").mean().item(), rel=1e-3)
