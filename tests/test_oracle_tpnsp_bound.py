"""Gradient null space of a convolution and its bound, in exact mathematics (archive tpnsp_bound)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from css.nullspace import GradientStatistics, Rule, projector
from tasks.source import VOID

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "tpnsp_bound.npz", allow_pickle=False)
CASES = range(int(ARCHIVE["n_cases"]))
RULE = Rule("relative", float(ARCHIVE["relative_threshold"]))


class Case:
    def __init__(self, index):
        self.index = index
        weight = self.tensor("weight")
        self.layer = nn.Conv2d(
            weight.shape[1], weight.shape[0], weight.shape[2:], int(self["stride"]), int(self["padding"]),
            int(self["dilation"]), dtype=torch.float64,
        )  # fmt: skip
        self.layer.weight.data, self.layer.bias.data = weight, self.tensor("bias")
        self.layer.bias.requires_grad_(False)

    def __getitem__(self, name):
        return ARCHIVE[f"case{self.index}_{name}"]

    def tensor(self, name):
        return torch.from_numpy(self[name]).double()

    def loss(self, model, images, labels):
        hidden = model(images).tanh()
        logits = torch.einsum("kc,nchw->nkhw", self.tensor("head_weight"), hidden)
        logits = logits + self.tensor("head_bias")[:, None, None]
        return F.cross_entropy(logits, labels.long(), ignore_index=VOID)

    def batches(self):
        return list(zip(self.tensor("inputs"), torch.from_numpy(self["labels"]), strict=True))

    def rows(self, group="batch"):
        """G^T of every group, (C0, C1), as they were handed to the matrix."""
        given = []
        statistics = GradientStatistics()
        update = statistics._update
        statistics._update = lambda name, rows, channels: (given.append(rows[0]), update(name, rows, channels))
        statistics.collect(BiasFree(self.layer), self.batches(), self.loss, group)
        return statistics, given


class BiasFree(nn.Conv2d):
    """The same convolution whose bias is no part of the null space, as the archive has it."""

    def __init__(self, layer):
        super().__init__(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                         layer.dilation, bias=False, dtype=torch.float64)  # fmt: skip
        self.weight, self.constant = layer.weight, layer.bias

    def forward(self, x):
        return super().forward(x) + self.constant[:, None, None]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


def test_losses(case):
    losses = [case.loss(case.layer, *batch).item() for batch in case.batches()]
    np.testing.assert_allclose(losses, case["losses"], rtol=1e-10)


def test_gradients_and_their_sum(case):
    statistics, rows = case.rows()
    np.testing.assert_allclose(torch.stack(rows).mT, case["G"], rtol=1e-8, atol=1e-12)
    matrix = statistics.grams["weight"][0].matrix
    np.testing.assert_allclose(matrix, case["M"], rtol=1e-8, atol=1e-12)
    # What Eq. 5 says read literally, one G over everything, is another matrix.
    literal = case.rows("set")[0].grams["weight"][0].matrix
    assert np.abs(literal - case["M"]).max() > 1e-3 * np.abs(case["M"]).max()


def test_eigenvalues_and_projector(case):
    statistics, _ = case.rows()
    values, _ = statistics.grams["weight"][0].eigen()
    np.testing.assert_allclose(values.flip(0), case["eigenvalues"], rtol=1e-8, atol=1e-12)
    project = projector(statistics, RULE)["weight"]
    assert project.free == int(case["n_kept"])
    np.testing.assert_allclose(project(torch.eye(len(case["projector"]), dtype=torch.float64)), case["projector"],
                               rtol=1e-8, atol=1e-10)  # fmt: skip


def test_update_and_bound(case):
    statistics, rows = case.rows()
    project = projector(statistics, RULE)["weight"]
    update = case.tensor("update").flatten(1)
    projected = project(update)
    np.testing.assert_allclose(projected, case.tensor("update_projected").flatten(1), rtol=1e-8, atol=1e-10)
    norms = [(projected @ row.T).norm().item() for row in rows]
    np.testing.assert_allclose(norms, case["check_norms"], rtol=1e-7, atol=1e-9)
    unprojected = [(update @ row.T).norm().item() for row in rows]
    np.testing.assert_allclose(unprojected, case["check_norms_unprojected"], rtol=1e-8)
    bound = project.bound * projected.square().sum().item()
    np.testing.assert_allclose(bound, case["bound"], rtol=1e-6, atol=1e-12)
    assert sum(norm**2 for norm in norms) <= bound * (1 + 1e-9) + 1e-15
    assert sum(norm**2 for norm in unprojected) > 10 * bound  # the control: without projection it does not hold
