"""Coefficient and fused weights of EWF against its official implementation."""

import pytest
import torch
from oracle_archive import Archive, assert_close, differs
from torch import nn

from css.fusion.gates import linear
from plop_baseline.ewf import Ewf, EwfOptions, balance_factor
from plop_baseline.finetune import Finetune

ARCHIVE = Archive("ewf_fusion")
CASES, array, group = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.group
PAIRS = ARCHIVE.arrays["weight_pairs"], ARCHIVE.arrays["weight_values"]


def factor(case):
    classes = array(case, "classes")
    return balance_factor(int(classes[-1]), int(classes.sum()))


def fused(case, share=None):
    old, new = group(case, "old"), group(case, "new")
    newest = tuple(set(new) - set(old))
    return linear(old, new, 1 - (factor(case) if share is None else share), newest)


@pytest.mark.parametrize(("pair", "value"), [*zip(*PAIRS, strict=True)])
def test_coefficient(pair, value):
    assert balance_factor(*pair.tolist()) == pytest.approx(value, rel=1e-12)


@CASES
def test_coefficient_of_a_stream(case):
    assert factor(case) == pytest.approx(ARCHIVE.number(case, "w"), rel=1e-12)


@CASES
def test_fused_state(case):
    found, expected = fused(case), group(case, "fused")
    assert set(expected) == {name for name, value in found.items() if value.is_floating_point()}
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-12)


@CASES
def test_counters_stay_counters(case):
    """The official code makes fractions of them, which loading truncates; they play no part."""
    found, old, new, loaded = fused(case), *(group(case, name) for name in ("old", "new", "fused_code_loaded"))
    for name, code in group(case, "fused_code").items():
        assert torch.equal(found[name], new[name])
        assert_close(torch.lerp(old[name].double(), new[name].double(), factor(case)), code)
        assert torch.equal(code.to(loaded[name]), loaded[name]) and differs(found[name], code)


@CASES
def test_ends(case):
    old, new = group(case, "old"), group(case, "new")
    at_one, at_zero = fused(case, 1), fused(case, 0)
    assert all(torch.equal(at_one[name], value) for name, value in new.items())
    assert all(torch.equal(at_zero[name], value) for name, value in old.items() if value.is_floating_point())


@CASES
def test_plausible_mistakes_fail(case):
    """The shares swapped; the background not counted."""
    classes = array(case, "classes")
    without_background = balance_factor(int(classes[-1]), int(classes.sum()) - 1)
    for wrong in (fused(case, 1 - factor(case)), fused(case, without_background)):
        assert any(differs(wrong[name], value) for name, value in group(case, "fused").items())


class Growing(nn.Module):
    """A network of a shared layer, a table that grows, and a head for every task, all of one value."""

    def __init__(self, tasks, value):
        super().__init__()
        self.shared, self.table = nn.Linear(2, 2), nn.Linear(2, tasks)
        self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(tasks))
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)


def test_heads_of_a_method_that_the_task_has_added_stay():
    """As those of BARM and SSUL; and the ridge classifier, which grows."""
    method = Ewf(EwfOptions(factor=0.25), Finetune())
    method.base.learn = lambda *_: None
    old, new = Growing(2, 0.0), Growing(3, 1.0)
    method.learn(None, new, old, None)
    found = {name: value.unique().item() for name, value in new.state_dict().items()}
    assert found == {name: 0.25 if name.startswith(("shared", "heads.0", "heads.1")) else 1.0 for name in found}
