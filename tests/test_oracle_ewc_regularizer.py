"""Importance and penalty of EWC against the official implementation of PLOP (the same as MiB's)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plop_baseline.ewc import EwcOptions, Importance, penalty

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "ewc_regularizer.npz", allow_pickle=False)
UPDATES = int(ARCHIVE["n_updates"])
ALPHA = ARCHIVE["alpha"].item()
EXACT = {"rtol": 1e-9, "atol": 1e-14}


def names(step):
    return ARCHIVE[f"names_step{step}"].tolist()


def named(prefix, step):
    """Tensors of all parameters of a step."""
    return {name: torch.from_numpy(ARCHIVE[f"{prefix}/{name}"]) for name in names(step)}


def updated(importance, step, alpha=ALPHA):
    for k in range(UPDATES):
        importance.update(named(f"step{step}_grad_{k}", step), alpha)
    return importance


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, **EXACT)


def old_parameters():
    return named("step0_param_end", 0)


def parameters():
    return {name: value.requires_grad_() for name, value in named("penalty_param", 1).items()}


def test_weight_of_the_newest_batch():
    assert EwcOptions().alpha == ALPHA


def test_importance_after_the_first_task():
    assert_same(updated(Importance(), 0).fisher, named("ewc_step0_fisher", 0))


def test_importance_goes_on_in_the_second_task():
    """Also through what is saved: new parameters start at 1, old ones where they were, not normalised."""
    saved = updated(Importance(), 0).fisher
    assert set(names(1)) > set(saved)
    assert_same(updated(Importance(saved), 1).fisher, named("ewc_step1_fisher", 1))


def test_penalty_and_gradient():
    new, held = parameters(), updated(Importance(), 0).normalised()
    value = penalty(new, old_parameters(), held)
    assert_same(value.detach(), torch.tensor(ARCHIVE["ewc_step1_penalty"].item(), dtype=torch.float64))
    value.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in new.items()}
    assert_same(gradients, named("ewc_step1_penalty_grad", 1))


def test_penalty_without_normalisation():
    value = penalty(parameters(), old_parameters(), updated(Importance(), 0).fisher).item()
    assert value == pytest.approx(ARCHIVE["ewc_step1_penalty_unnormalised"].item(), rel=1e-9)
    assert value != pytest.approx(ARCHIVE["ewc_step1_penalty"].item(), rel=1e-2)


def test_no_penalty_where_nothing_changed():
    old = old_parameters()
    assert penalty(old, old, updated(Importance(), 0).normalised()) == 0 == ARCHIVE["ewc_step0_penalty"].item()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: updated(Importance(), 0, alpha=1 - ALPHA),  # the average the other way round
        lambda: updated(Importance({name: torch.zeros_like(old) for name, old in old_parameters().items()}), 0),
    ],
    ids=["alpha of the old value", "start at 0"],
)
def test_plausible_averages_fail(wrong):
    expected = named("ewc_step0_fisher", 0)
    assert not all(torch.allclose(wrong().fisher[name], value, **EXACT) for name, value in expected.items())


def test_plausible_penalties_fail():
    expected = ARCHIVE["ewc_step1_penalty"].item()
    fisher = updated(Importance(), 0).fisher
    over_all = {name: f / max(v.max() for v in fisher.values()) for name, f in fisher.items()}
    assert penalty(parameters(), old_parameters(), over_all).item() != pytest.approx(expected, rel=1e-3)
    start = named("step0_param_start", 0)
    held = Importance(fisher).normalised()
    assert penalty(parameters(), start, held).item() != pytest.approx(expected, rel=1e-3)
    assert penalty(parameters(), old_parameters(), held).item() / 2 != pytest.approx(expected, rel=1e-3)
