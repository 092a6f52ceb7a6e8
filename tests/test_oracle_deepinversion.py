"""Image priors against DeepInversion: values and gradients with respect to the images (archive deepinversion)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from css.dream.priors import _differences, deviation, mean_norm, total_variation

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "deepinversion.npz", allow_pickle=False)
CASES = range(int(ARCHIVE["n_cases"]))


def tensor(case, name):
    return torch.from_numpy(ARCHIVE[f"case{case}_{name}"]).double()


def images(case):
    return tensor(case, "images").requires_grad_()


def bn_terms(case, x):
    stride, padding = (int(ARCHIVE[f"case{case}_{name}"]) for name in ("stride", "padding"))
    z = F.conv2d(x, tensor(case, "conv_weight"), stride=stride, padding=padding)
    return deviation(z, tensor(case, "running_mean"), tensor(case, "running_var"))


def assert_equal(value, gradient_of, case, name):
    assert value.item() == pytest.approx(float(ARCHIVE[f"case{case}_{name}"]), rel=1e-9)
    (gradient,) = torch.autograd.grad(value, gradient_of)
    np.testing.assert_allclose(gradient, ARCHIVE[f"case{case}_{name}_grad"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_batch_norm_statistics(case):
    x = images(case)
    of_means, of_variances = bn_terms(case, x)
    assert of_means.item() == pytest.approx(float(ARCHIVE[f"case{case}_bn_mean_norm"]), rel=1e-9)
    assert of_variances.item() == pytest.approx(float(ARCHIVE[f"case{case}_bn_var_norm"]), rel=1e-9)
    assert_equal(of_means + of_variances, x, case, "bn_loss")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("tv_l1", lambda x: sum(difference.abs().mean() for difference in _differences(x))),
        ("tv_l2", total_variation),
        ("l2_imagenet", mean_norm),
        ("l2_cifar", lambda x: x.norm()),
    ],
)
def test_priors(case, name, prior):
    x = images(case)
    assert_equal(prior(x), x, case, name)


@pytest.mark.parametrize("case", CASES)
def test_archive_tells_plausible_mistakes_apart(case):
    x, mean, var = images(case).detach(), tensor(case, "running_mean"), tensor(case, "running_var")
    stride, padding = (int(ARCHIVE[f"case{case}_{name}"]) for name in ("stride", "padding"))
    z = F.conv2d(x, tensor(case, "conv_weight"), stride=stride, padding=padding)
    values = z.transpose(0, 1).flatten(1)
    wrong = {
        "unbiased variance": ((values.var(1) - var).norm(), "bn_var_norm"),
        "squared": ((values.mean(1) - mean).square().sum(), "bn_mean_norm"),
        "element by element": ((z - mean.view(-1, 1, 1)).norm(), "bn_mean_norm"),
        "per image": ((z.mean((2, 3)) - mean).norm(dim=1).mean(), "bn_mean_norm"),
        "wrapped around": (
            sum((x - x.roll(shift, (2, 3))).norm() for shift in ((0, 1), (1, 0), (1, 1), (1, -1))),
            "tv_l2",
        ),
    }
    for mistake, (value, name) in wrong.items():
        assert value.item() != pytest.approx(float(ARCHIVE[f"case{case}_{name}"]), rel=1e-6), mistake
