"""The analytic head against the released code and against its batch solution, over three tasks."""

import pytest
import torch
from oracle_archive import Archive, assert_close, differs, resized

from plop_baseline.ridge import RidgeSums, confident_answers, expanded, random_projection

ARCHIVE = Archive("analytic_head")
CASES, array, number = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.number
TOLERANCE = 1e-7


def tasks(case):
    return range(number(case, "n_tasks"))


def channels(case, task):
    return int(array(case, "classes")[: task + 1].sum())


def batches(case, task):
    return [(task, i) for i in range(number(case, f"n_batches_{task}"))]


def features(case, maps):
    return expanded(maps.movedim(1, -1).flatten(0, 2), array(case, "projection"))


def outputs(case, maps, weight):
    rows = features(case, maps) @ weight
    return rows.unflatten(0, (len(maps), *maps.shape[-2:])).movedim(-1, 1)


def corners(labels, maps):
    """As published: the label of a place is that of the first pixel of its cell."""
    stride = labels.shape[-1] // maps.shape[-1]
    return labels[:, ::stride, ::stride].flatten()


def sums(case, which, labels=None):
    """Over the batches `which`; `labels` by batch, if not those of the archive."""
    found = RidgeSums.empty(len(array(case, "projection")))
    for task, i in which:
        maps = array(case, f"features_{task}_{i}")
        of_batch = array(case, f"labels_{task}_{i}") if labels is None else labels[task, i]
        found.update(features(case, maps), corners(of_batch, maps), channels(case, task))
    return found


def learnt(case, reading, until):
    """The classifier after task `until` with pseudo labels from the model that is meant, or from the one at work."""
    labels, weight, gamma = {}, None, number(case, "gamma")
    for task in range(until + 1):
        previous = weight
        for batch in batches(case, task):
            maps, own = (array(case, f"{what}_{batch[0]}_{batch[1]}") for what in ("features", "labels"))
            if task:
                teacher = weight if reading == "code" else previous
                own = confident_answers(outputs(case, maps, teacher), own, number(case, "threshold"))
            labels[batch] = own
            weight = sums(case, labels, labels).weight(gamma)
    return weight, labels


@CASES
def test_every_task(case):
    for task in tasks(case):
        found = sums(case, [batch for t in range(task + 1) for batch in batches(case, t)])
        assert_close(found.weight(number(case, "gamma")), array(case, f"weight_{task}"), TOLERANCE)
    assert_close(found.square, array(case, "G"), TOLERANCE)
    assert_close(found.cross, array(case, "C"), TOLERANCE)
    inverse = torch.linalg.inv(found.square + number(case, "gamma") * torch.eye(len(found.square)))
    assert_close(inverse, array(case, "R"), TOLERANCE)


@CASES
def test_batch_solution(case):
    """Task by task is all at once: least squares with a ridge, by another algorithm."""
    everything = [batch for task in tasks(case) for batch in batches(case, task)]
    rows, labels = [], []
    for task, i in everything:
        maps = array(case, f"features_{task}_{i}")
        rows.append(features(case, maps))
        labels.append(corners(array(case, f"labels_{task}_{i}"), maps))
    rows, labels = torch.cat(rows), torch.cat(labels)
    rows, labels = rows[labels != 255], labels[labels != 255].long()
    last, gamma = channels(case, len(tasks(case)) - 1), number(case, "gamma")
    ridge = gamma**0.5 * torch.eye(rows.shape[1], dtype=torch.float64)
    targets = torch.nn.functional.one_hot(labels, last).double()
    stacked = torch.cat([rows, ridge]), torch.cat([targets, targets.new_zeros(rows.shape[1], last)])
    assert_close(sums(case, everything).weight(gamma), torch.linalg.lstsq(*stacked).solution, TOLERANCE)


@CASES
def test_order_does_not_matter(case):
    last = len(tasks(case)) - 1
    backwards = RidgeSums.empty(len(array(case, "projection")))
    for task in reversed(tasks(case)):
        backwards.add(sums(case, reversed(batches(case, task))))
    assert_close(backwards.weight(number(case, "gamma")), array(case, f"weight_{last}"), TOLERANCE)


@CASES
@pytest.mark.parametrize("reading", ["frozen", "code"])
def test_pseudo_labels(case, reading):
    """Meant are those of the previous task's model; the released code asks the one that is being changed."""
    for task in tasks(case):
        weight, labels = learnt(case, reading, task)
        assert_close(weight, array(case, f"{reading}_weight_{task}"), TOLERANCE)
    for task in range(1, len(tasks(case))):
        for batch in batches(case, task):
            assert torch.equal(labels[batch], array(case, f"{reading}_pseudo_labels_{batch[0]}_{batch[1]}"))


@CASES
def test_decision(case):
    maps, last = array(case, "test_features"), len(tasks(case)) - 1
    found = outputs(case, maps, array(case, f"frozen_weight_{last}"))
    assert_close(found, array(case, "test_outputs"), TOLERANCE)
    size = array(case, "test_prediction").shape[-2:]
    assert torch.equal(resized(found.sigmoid(), size).argmax(1), array(case, "test_prediction").long())
    assert torch.equal(resized(found, size).argmax(1), array(case, "test_prediction_from_outputs").long())


@CASES
def test_plausible_mistakes_fail(case):
    """No ridge to speak of; no activation; void as background; labels from the middle of the cells."""
    last = len(tasks(case)) - 1
    everything = [batch for task in tasks(case) for batch in batches(case, task)]
    expected, gamma = array(case, f"weight_{last}"), number(case, "gamma")
    labels = {(t, i): array(case, f"labels_{t}_{i}") for t, i in everything}
    void_counts = {batch: own.where(own != 255, torch.zeros_like(own)) for batch, own in labels.items()}
    middle = {batch: own.roll((-2, -2), (1, 2)) for batch, own in labels.items()}
    for wrong in (sums(case, everything).weight(2 * gamma), sums(case, everything, void_counts).weight(gamma),
                  sums(case, everything, middle).weight(gamma)):  # fmt: skip
        assert differs(wrong, expected)


def test_projection():
    """The same for everybody with the seed, and as wide as published."""
    found = random_projection(1000, 256, 3)
    assert torch.equal(found, random_projection(1000, 256, 3))
    assert not torch.equal(found, random_projection(1000, 256, 4))
    assert 0.0624 < found.abs().max() <= 1 / 16 and abs(found.mean()) < 1e-3


def test_void_alone_adds_nothing():
    sums = RidgeSums.empty(3)
    sums.update(torch.ones(5, 3), torch.full((5,), 255), 4)
    assert not sums.square.any() and sums.cross.shape == (3, 4) and not sums.weight(1.0).any()
