"""Losses of LwF, LwF-MC and ILT against the official implementation of PLOP (the same functions as MiB's)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from css.model.output import Output
from plop_baseline.ilt import Ilt
from plop_baseline.lwf import Lwf, bce_distillation, distillation
from plop_baseline.lwf_mc import LwfMc, LwfMcOptions, binary_cross_entropy

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "lwf_losses.npz", allow_pickle=False)
CASES = pytest.mark.parametrize("case", range(int(ARCHIVE["n_cases"])))
DOUBLE = {"rtol": 1e-9, "atol": 1e-14}
SINGLE = {"rtol": 2e-6, "atol": 1e-6}  # the archive's binary cross-entropies were computed in float32


def array(case, name):
    return torch.from_numpy(ARCHIVE[f"case{case}_{name}"])


def number(case, name):
    return ARCHIVE[f"case{case}_{name}"].item()


def double(case, name):
    return array(case, name).double()


def assert_close(actual, expected, rtol, atol):
    torch.testing.assert_close(actual.detach().double(), expected.double(), rtol=rtol, atol=atol)


def student(case):
    return double(case, "logits_new").requires_grad_()


def assert_value_and_gradient(value, logits, case, name, tolerance):
    assert_close(value, array(case, name), **tolerance)
    assert_close(torch.autograd.grad(value, logits)[0], array(case, f"{name}_grad"), **tolerance)


@CASES
@pytest.mark.parametrize("alpha", [1, 2])
def test_distillation(case, alpha):
    logits = student(case)
    loss = distillation(logits, double(case, "logits_old"), alpha)
    assert loss.shape == array(case, "targets").shape
    assert_value_and_gradient(loss.mean(), logits, case, f"kd_alpha{alpha}", DOUBLE)


@CASES
def test_masked_distillation(case):
    logits = student(case)
    loss = distillation(logits, double(case, "logits_old"), mask=array(case, "mask"))
    assert_value_and_gradient(loss.mean(), logits, case, "kd_masked", DOUBLE)


@CASES
def test_plausible_distillations_fail(case):
    """Negative control: soft-max over all channels, sharpened on both sides, divided by all channels, wrong mask."""
    logits, old, mask = double(case, "logits_new"), double(case, "logits_old"), array(case, "mask")
    num_old, num_all = old.shape[1], logits.shape[1]
    over_all = -(old.softmax(1) * logits.log_softmax(1)[:, :num_old]).mean()
    for wrong in (over_all, distillation(logits, old).mean() * num_old / num_all):
        assert wrong.item() != pytest.approx(number(case, "kd_alpha1"), rel=1e-3)
    assert distillation(2 * logits, old, 2).mean().item() != pytest.approx(number(case, "kd_alpha2"), rel=1e-3)
    for wrong in (distillation(logits, old, mask=~mask).mean(), distillation(logits, old)[mask].mean()):
        assert wrong.item() != pytest.approx(number(case, "kd_masked"), rel=1e-3)


@CASES
def test_binary_cross_entropy(case):
    logits, targets = student(case), array(case, "targets")
    loss = binary_cross_entropy(logits, targets)
    assert_close(loss, array(case, "bce_none"), **SINGLE)
    assert_close(torch.autograd.grad(loss.mean(), logits, retain_graph=True)[0], array(case, "bce_none_grad"), **SINGLE)
    valid = (targets != 255).sum()
    assert_value_and_gradient(loss.sum() / valid, logits, case, "bce_mean", SINGLE)
    assert_value_and_gradient(binary_cross_entropy(logits, targets).sum(), logits, case, "bce_sum", SINGLE)


class FixedModel:
    """Answers with the archive's logits and body features; its encoder is no ResNet, so taps count as activated."""

    encoder = None

    def __init__(self, logits, body):
        self.output = Output(logits, body, (body,))

    def __call__(self, images):
        return self.output


@CASES
@pytest.mark.parametrize(("name", "method"), [("lwf", Lwf()), ("lwfmc", LwfMc()), ("ilt", Ilt())])
def test_preset(case, name, method):
    """The methods themselves; up-sampling makes the logits float32."""
    logits, body = student(case), double(case, "body_new").requires_grad_()
    teacher = FixedModel(double(case, "logits_old"), double(case, "body_old"))
    task = SimpleNamespace(old_classes=range(number(case, "nb_old_classes")))
    terms = method.losses(task, FixedModel(logits, body), teacher, None, array(case, "targets"))
    class_term, *others = terms.values()
    assert class_term.item() == pytest.approx(number(case, f"{name}_class_term"), rel=2e-6)
    assert sum(others).item() == pytest.approx(number(case, f"{name}_reg_term"), rel=2e-6)
    sum(terms.values()).backward()
    for gradient, what in [(logits.grad, "logits"), (body.grad, "body")][: 2 if name == "ilt" else 1]:
        expected = array(case, f"{name}_grad_{what}").double()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@CASES
def test_lwf_mc_is_not_icarl(case):
    """Negative control: with soft targets in place of the hard ones, the sum of both terms is another."""
    logits, targets, old = double(case, "logits_new"), array(case, "targets").long(), double(case, "logits_old")
    one_hot = F.one_hot(targets.clamp(max=logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1).double()
    one_hot = one_hot * (targets != 255).unsqueeze(1)
    one_hot[:, : old.shape[1]] = old.sigmoid()
    icarl = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1).mean()
    assert_close(icarl, array(case, "icarl_bkg0"), **SINGLE)
    preset = number(case, "lwfmc_class_term") + number(case, "lwfmc_reg_term")
    assert icarl.item() != pytest.approx(preset, rel=1e-2)
    without_factor = LwfMcOptions().kd_weight * bce_distillation(logits, old).mean()
    assert without_factor.item() != pytest.approx(number(case, "lwfmc_reg_term"), rel=1e-2)
    assert number(case, "bce_mean") != pytest.approx(number(case, "lwfmc_class_term"), rel=1e-3)
