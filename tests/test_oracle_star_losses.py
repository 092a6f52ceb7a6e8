"""Statistics, drawn features and losses of STAR against its official implementation, and as they are meant."""

from types import SimpleNamespace

import pytest
import torch
from oracle_archive import Archive, assert_close, differs, resized
from torch.nn import functional as F

from css.losses import at_places
from plop_baseline.star_losses import (
    contrast,
    masked_distance,
    new_class_loss,
    old_answers,
    old_places,
    weighted,
)
from plop_baseline.star_statistics import ClassStatistics, FeatureSums, numbers_after, plan

ARCHIVE = Archive("star_losses")
CASES, array, number = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.number
READINGS = pytest.mark.parametrize("reading", ["code", "meant"])
THRESHOLD = {"code": 0.5, "meant": 0.0}  # of the logits of the old model


def known(case):
    return number(case, "nb_old_classes")


def disjoint(case):
    return number(case, "setting") == "disjoint"


def batches(case, what):
    return [i for i in range(number(case, "n_batches")) if ARCHIVE.has(case, f"{what}_{i}")]


def centres(maps, size):
    return at_places(maps, size[-2:])


def sums(case, which, channels):
    features = [array(case, f"{which}_features_{i}") for i in batches(case, f"{which}_features")]
    found = FeatureSums(channels, features[0].shape[1])
    for i, maps in enumerate(features):
        labels = centres(array(case, f"{which}_labels_{i}"), maps.shape)
        found.update(maps.movedim(1, -1).flatten(0, 2), labels.flatten())
    return found


def first_statistics(case):
    """As stored, so that the tests of what follows do not depend on those of the statistics."""
    mean, std = array(case, "first_norm_mean_std")
    numbers = array(case, "train_prev_numbers")[1:]
    return ClassStatistics(numbers, array(case, "first_prototypes"), mean, std, array(case, "first_noise"))


def assert_statistics(found, case, which, noise):
    assert_close(found.prototypes, array(case, f"{which}_prototypes"))
    assert_close(torch.stack([found.norm_mean, found.norm_std]), array(case, f"{which}_norm_mean_std"))
    assert_close(found.noise, array(case, noise))


@CASES
def test_statistics_of_the_first_task(case):
    found = sums(case, "first", known(case))
    assert torch.equal(found.numbers, array(case, "first_numbers"))
    assert_statistics(found.statistics(1), case, "first", "first_noise")


@CASES
@READINGS
def test_statistics_of_a_later_task(case, reading):
    """As published, the noise of a new class is measured around the prototype of another class."""
    old = sums(case, "first", known(case)).statistics(1)
    found = sums(case, "later", known(case) + number(case, "nb_new_classes"))
    own = found.statistics(known(case))
    joined = old.joined(own)
    assert torch.equal(torch.cat([found.numbers[:1], own.numbers]), array(case, "later_numbers"))
    if reading == "code":
        joined = old.joined(found.statistics(known(case), joined.prototypes[: len(own.numbers)]))
    assert_statistics(joined, case, "later", f"later_noise_{reading}")


def test_classes_with_one_feature_and_with_none():
    """The official code has NaN for the spread of a single norm, and stops where there is none."""
    found = FeatureSums(4, 2)
    found.update(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 3, 3]))
    found, half = found.statistics(1), 0.5**0.5
    assert_close(found.prototypes, torch.tensor([[0.6, 0.8], [0.0, 0.0], [half, half]], dtype=torch.float64))
    assert_close(found.norm_mean, torch.tensor([5.0, 0.0, 1.5]))
    assert_close(found.norm_std, torch.tensor([0.0, 0.0, half], dtype=torch.float64))
    assert not found.noise[:2].any() and found.noise[2].all()


def answers(case, reading, i):
    old = array(case, f"train_features_old_{i}")
    weight, bias = array(case, "train_old_weight"), array(case, "train_old_bias")
    logits = resized(F.conv2d(old, weight[:, :, None, None], bias), array(case, f"train_labels_{i}").shape[-2:])
    return old_answers(F.pad(logits, (0, 0, 0, 0, 1, 0)), THRESHOLD[reading])


def small(case, i):
    return array(case, f"train_features_new_{i}").shape


def predicted(case, reading):
    count = torch.zeros(known(case), dtype=torch.float64)
    for i in batches(case, "train_labels"):
        background = centres(array(case, f"train_labels_{i}"), small(case, i)) == 0
        count += centres(answers(case, reading, i), small(case, i))[background].bincount(minlength=known(case))
    return count


def planned(case, reading):
    new = number(case, "nb_new_classes")
    return plan(array(case, "train_prev_numbers"), predicted(case, reading), number(case, "n_batches"), new,
                disjoint(case))  # fmt: skip


@CASES
@READINGS
def test_plan(case, reading):
    found = planned(case, reading)
    assert torch.equal(predicted(case, reading), array(case, f"train_{reading}_pred_numbers"))
    assert found.draws == array(case, f"train_{reading}_n_per_iteration").tolist()
    assert found.background == pytest.approx(number(case, f"train_{reading}_extra_bg_ratio"), rel=1e-9, abs=1e-12)
    fresh, new = array(case, "train_current_numbers")[1:], number(case, "nb_new_classes")
    after = numbers_after(array(case, "train_prev_numbers"), predicted(case, reading), fresh, new, disjoint(case))
    assert_close(after, array(case, f"train_{reading}_numbers_after"))


def test_a_task_without_background():
    """The official code divides by the number of its places."""
    numbers, none = torch.tensor([10.0, 4.0]).double(), torch.zeros(2).double()
    assert plan(numbers, none, 2, 1, disjoint=False) == plan(numbers, none, 2, 1, disjoint=True) == ([2], 0.0)


def drawn(case, reading, i, norms=slice(None)):
    draws = planned(case, reading).draws
    noise, norm_noise = (
        torch.cat([rows[:n] for rows, n in zip(array(case, f"train_{name}_{i}"), draws, strict=True)])
        for name in ("eps", "eps_norm")
    )
    return first_statistics(case).draw(draws, noise, norm_noise[:, norms])


@CASES
@READINGS
def test_drawn_features(case, reading):
    for i in batches(case, "train_labels"):
        assert_close(drawn(case, reading, i), array(case, f"train_{reading}_drawn_{i}"))
        one_norm = drawn(case, "meant", i, slice(1))
        assert_close(one_norm, array(case, f"train_meant_drawn_one_norm_{i}"))
        assert not len(one_norm) or differs(one_norm, array(case, f"train_meant_drawn_{i}"))


def leaves(case, i):
    names = {"features": f"features_new_{i}", "new_weight": "new_new_weight", "new_bias": "new_new_bias"}
    return SimpleNamespace(**{name: array(case, f"train_{of}").requires_grad_() for name, of in names.items()})


def computed(case, reading, i, given):
    """Terms of a batch, and what they are made of."""
    labels, seen = array(case, f"train_labels_{i}"), answers(case, reading, i)
    small_logits = F.conv2d(given.features, given.new_weight[:, :, None, None], given.new_bias)
    region = centres((labels == 0) & (seen == 0), small(case, i))
    terms = new_class_loss(
        resized(small_logits, labels.shape[-2:]), small_logits,
        F.linear(drawn(case, reading, i), given.new_weight, given.new_bias), labels, known(case),
        number(case, "pos_weight"), region, planned(case, reading).background,
    )  # fmt: skip
    mask = old_places(labels, seen, small(case, i)[-2:]).double()
    new = range(known(case), known(case) + number(case, "nb_new_classes"))
    pkd = masked_distance(given.features, array(case, f"train_features_old_{i}"), mask)
    cont = contrast(given.features, labels, new, array(case, "first_prototypes"))
    weights = array(case, "weights")
    return SimpleNamespace(
        terms=terms, region=region, mask=mask, pkd=pkd, cont=cont,
        total=(weights * torch.stack([weighted(terms), pkd, cont])).sum(),
    )  # fmt: skip


def expected(case, reading, name, i):
    return array(case, f"train_{reading}_{name}_{i}")


@CASES
@READINGS
def test_places(case, reading):
    for i in batches(case, "train_labels"):
        found = computed(case, reading, i, leaves(case, i))
        assert torch.equal(found.region, expected(case, reading, "region_background", i))
        assert torch.equal(found.mask, expected(case, reading, "mask_old", i))


@CASES
@READINGS
def test_terms(case, reading):
    """Where the official code has NaN, for want of a place or of a feature to draw, the term is 0."""
    for i in batches(case, "train_labels"):
        found = computed(case, reading, i, leaves(case, i))
        pairs = {f"loss_{name}": found.terms[name] for name in ("image", "fake", "background")}
        pairs |= {f"weight_{name}": found.terms[f"weight_{name}"] for name in ("fake", "background")}
        pairs |= {"loss_pkd": found.pkd, "loss_cont": found.cont}
        for name, value in pairs.items():
            assert_close(value, expected(case, reading, name, i).nan_to_num())


@CASES
@READINGS
def test_total_and_gradients(case, reading):
    checked = 0
    for i in batches(case, "train_labels"):
        given = leaves(case, i)
        total = computed(case, reading, i, given).total
        total.backward()
        if expected(case, reading, "total", i).isnan():
            assert reading == "code" and total.isfinite()
            continue
        assert_close(total, expected(case, reading, "total", i))
        for name, leaf in vars(given).items():
            assert_close(leaf.grad, expected(case, reading, f"grad_{name}", i))
        checked += 1
    assert checked or reading == "code"


def test_nothing_old_and_nothing_to_draw():
    """Void alone: terms are numbers, and gradients, too."""
    features = torch.zeros(2, 5, 3, 3).requires_grad_()
    labels = torch.full((2, 48, 48), 255)
    logits = features[:, :1]
    nothing = new_class_loss(
        resized(logits, (48, 48)), logits, features.new_zeros(0, 1), labels, 3, 4.0, labels[:, 8::16, 8::16] == 0, 0.3
    )
    mask = old_places(labels, torch.zeros_like(labels), (3, 3))
    total = weighted(nothing) + masked_distance(features, features.detach() + 1, mask)
    total = total + contrast(features, labels, range(3, 4), F.normalize(torch.ones(2, 5), dim=1))
    total.backward()
    assert total.isfinite() and features.grad.isfinite().all()


@CASES
def test_plausible_mistakes_fail(case):
    """Biased spread; noise around the mean, not the prototype; weights left out; a hard mask."""
    found = sums(case, "first", known(case))
    stored = array(case, "first_norm_mean_std")[1]
    count = found.numbers[1:]
    assert differs(found.statistics(1).norm_std * ((count - 1) / count).sqrt(), stored)
    mean = found.sums[1:, : found.width] / count[:, None]
    assert differs(found.statistics(1, mean).noise, array(case, "first_noise"))
    unlike: dict[str, list[bool]] = {"weights": [], "mask": []}  # some batches have nothing of the kind
    for i in batches(case, "train_labels"):
        at = computed(case, "meant", i, leaves(case, i))
        unweighted = sum(at.terms[name] for name in ("image", "fake", "background")).sum()
        weights = array(case, "weights")
        without = (weights * torch.stack([unweighted, at.pkd, at.cont])).sum()
        unlike["weights"].append(differs(without, expected(case, "meant", "total", i)))
        unlike["mask"].append(differs(at.mask.round(), expected(case, "meant", "mask_old", i)))
    assert all(any(found) for found in unlike.values())
