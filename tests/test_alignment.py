"""Classifiers that are trained once more on features, real and drawn."""

from types import SimpleNamespace

import pytest
import torch
from small_shapes import first_model, make_trainer, second_task, small_stream
from torch.nn import functional as F

from css.losses import at_places
from css.model.state import Classifiers, classifiers_of, set_classifiers, snapshot
from css.s2mf import alignment
from css.s2mf.alignment import Alignment, Seen, _answers, _rows, aligned, look
from css.s2mf.hypercolumns import beside_hidden, halfway
from css.s2mf.moments import FeatureMoments, Gaussians, fit_drift

BACKGROUND, COW, SHEEP = range(3)
MEANS = torch.tensor([[1.0, 1, 1, 1], [5, 1, 1, 1], [5, 4, 1, 1]])  # a sheep is a cow with something more
TEACHER = Classifiers(torch.tensor([[-2.0, 0, 0, 0], [2, 0, 0, 0]]), torch.tensor([6.0, -6]))  # a cow is large in one
# The new classifier answers to what sheep and cows have in common.
GROWN = Classifiers(torch.tensor([[-2.0, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]]), torch.tensor([6.0, -6, -6]))


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(alignment, "BATCH", 256)
    monkeypatch.setattr(alignment, "STEPS", 400)
    monkeypatch.setattr(alignment, "LR", 0.05)
    monkeypatch.setattr(alignment, "HIDDEN_LR", 0.01)
    torch.manual_seed(0)


def shown(channel, number=1000):
    return MEANS[channel] + 0.3 * torch.randn(number, 4)


def gaussians(*counts):
    return Gaussians(torch.tensor(counts), MEANS[: len(counts)], 0.3 * torch.eye(4).expand(len(counts), 4, 4))


def seen(drift=lambda x: x, with_cows=False):
    """Images of sheep before a background, perhaps with cows that the labels call background."""
    parts = [(shown(BACKGROUND), BACKGROUND), (shown(SHEEP), SHEEP)]
    parts += [(shown(COW), BACKGROUND)] if with_cows else []
    before = torch.cat([x for x, _ in parts])
    labels = torch.cat([torch.full((len(x),), label) for x, label in parts])
    return Seen(before, drift(before), labels, len(labels))


def share_of_right_answers(classifiers, channel, drift=lambda x: x):
    return (classifiers.logits(drift(shown(channel))).argmax(1) == channel).float().mean()


def test_what_was_never_seen_beside_the_new_class_is_known_again():
    assert share_of_right_answers(GROWN, COW) < 0.05
    found = aligned(GROWN, TEACHER, gaussians(1000.0, 1000.0), seen(), torch.eye(5))
    assert all(share_of_right_answers(found, channel) > 0.97 for channel in range(3))
    without = aligned(GROWN, TEACHER, gaussians(1000.0, 0.0), seen(), torch.eye(5))
    assert share_of_right_answers(without, SHEEP) > 0.97
    assert share_of_right_answers(without, COW) < 0.5  # nothing has said that this is no sheep


def test_old_classes_that_the_labels_call_background_stay_what_the_teacher_sees():
    found = aligned(GROWN, TEACHER, gaussians(1000.0, 0.0), seen(with_cows=True), torch.eye(5))
    assert all(share_of_right_answers(found, channel) > 0.97 for channel in range(3))


def test_answers_of_the_teacher_are_kept_with_their_doubts():
    """Where the teacher gives 70 to 30, so does the aligned classifier; hard labels would give 100 to 0."""
    teacher = Classifiers(torch.zeros(2, 4), torch.tensor([0.7, 0.3]).log())
    found = aligned(GROWN, teacher, gaussians(1000.0, 1000.0), seen(), torch.eye(5))
    probabilities = found.logits(shown(COW)).softmax(1).mean(0)
    torch.testing.assert_close(probabilities, torch.tensor([0.7, 0.3, 0.0]), atol=0.06, rtol=0)


def test_drawn_features_follow_the_features_of_the_new_model():
    """In the new space the two halves have changed places."""

    def swap(x):
        return x[:, [2, 3, 0, 1]] + 1

    images = seen(swap, with_cows=True)
    grown = Classifiers(swap(GROWN.weight) - 1, GROWN.bias)
    found = aligned(grown, TEACHER, gaussians(1000.0, 1000.0), images, fit_drift(images.before, images.after))
    assert all(share_of_right_answers(found, channel, swap) > 0.95 for channel in range(3))
    images = seen(swap)
    standing = aligned(grown, TEACHER, gaussians(1000.0, 1000.0), images, torch.eye(5))
    assert share_of_right_answers(standing, COW, swap) < 0.5


@pytest.mark.parametrize(("frequency", "counts", "drawn"), [(100, (200.0, 100.0), 192), (1, (1e6, 0.0), 255)])
def test_shares_are_those_of_all_images(frequency, counts, drawn, monkeypatch):
    """At least one feature of the task is in every step."""
    parts = []
    monkeypatch.setattr(alignment, "train", lambda start, rows: parts.extend(rows) or start)
    aligned(GROWN, TEACHER, gaussians(*counts), seen()._replace(frequency=frequency), torch.eye(5))
    assert [part.number for part in parts] == [256 - drawn, drawn]
    assert len(parts[1].features) == alignment.POOL


def nothing_seen():
    return Seen(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0).long(), 0)


def test_without_a_labelled_place_old_classes_are_drawn_all_the_same():
    """Scribbles, thin objects, images of void: no place of the features has a label."""
    drift = fit_drift(nothing_seen().before, nothing_seen().after)
    assert torch.equal(drift, torch.eye(5, dtype=torch.float64))
    assert share_of_right_answers(GROWN, COW) < 0.05
    found = aligned(GROWN, TEACHER, gaussians(1000.0, 1000.0), nothing_seen(), drift)
    assert all(share_of_right_answers(found, channel) > 0.97 for channel in (BACKGROUND, COW))


def test_of_nothing_nothing_is_learnt():
    found = aligned(GROWN, TEACHER, gaussians(0.0, 0.0), nothing_seen(), torch.eye(5))
    assert torch.equal(found.weight, GROWN.weight) and torch.equal(found.bias, GROWN.bias)


@pytest.mark.parametrize("counts", [(0.0, 0.0), (0.01, 0.0)])
def test_old_classes_that_are_never_drawn(counts):
    found = aligned(GROWN, TEACHER, gaussians(*counts), seen(), torch.eye(5))
    assert share_of_right_answers(found, SHEEP) > 0.97
    assert all(value.isfinite().all() for value in found.tensors().values())


def test_a_process_that_saw_nothing_while_others_did():
    found = aligned(GROWN, TEACHER, gaussians(10.0, 10.0), nothing_seen()._replace(frequency=100), torch.eye(5))
    assert all(value.isfinite().all() for value in found.tensors().values())
    assert not torch.equal(found.weight, GROWN.weight)


@pytest.mark.parametrize("units", [0, 32])
def test_halfway_is_the_mean_of_the_logits(units):
    features, start = torch.randn(50, 4), beside_hidden(TEACHER.weight, TEACHER.bias, units)
    end = Classifiers(*(None if value is None else value + torch.randn_like(value) for value in start))
    expected = (TEACHER.logits(features) + end.logits(features)) / 2
    torch.testing.assert_close(halfway(start, end).logits(features), expected)
    if units:  # a start that uses its hidden layer has no such middle
        used = start._replace(weight=start.weight + 1)
        other = (used.logits(features) + end.logits(features)) / 2
        assert (halfway(used, end).logits(features) - other).abs().max() > 0.1


@pytest.mark.parametrize("units", [0, 32])
def test_a_hidden_layer_learns_what_no_linear_classifier_can(units):
    """The new class lies at two opposite corners of a square, the background at the others."""
    corners = torch.tensor([[1.0, 1, 0, 0], [-1, -1, 0, 0], [1, -1, 0, 0], [-1, 1, 0, 0]])
    features = corners.repeat_interleave(500, 0) + 0.3 * torch.randn(2000, 4)
    labels = torch.tensor([BACKGROUND, SHEEP]).repeat_interleave(1000)
    teacher = beside_hidden(TEACHER.weight, TEACHER.bias, units)
    grown = teacher._replace(weight=teacher.weight[[0, 1, 0]], bias=teacher.bias[[0, 1, 0]])
    found = aligned(grown, teacher, gaussians(0.0, 500.0), Seen(features, features, labels, 2000), None)
    right = (found.logits(features).argmax(1) == labels).float().mean()
    assert right > 0.97 if units else right < 0.8
    assert share_of_right_answers(found, COW) > 0.95  # of which only drawn features say something


# ---------------------------------------------------------------- in a task


@pytest.fixture(scope="module")
def stream():
    return small_stream()


def finished_first_task(stream, folder):
    """An alignment that has seen the first task, with the model of the second."""
    task, model, teacher = second_task(stream)
    found = Alignment()
    found.finish(stream.task(0), teacher, make_trainer(folder / "first"))
    return found, task, model, teacher


def test_only_the_classifiers_are_trained(stream, tmp_path):
    found, task, model, teacher = finished_first_task(stream, tmp_path)
    before, sums = snapshot(model), found.moments.sums.clone()
    found.align(task, model, teacher, make_trainer(tmp_path / "second"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("classifiers."), name
    torch.testing.assert_close(found.moments.sums, sums)  # the features are the teacher's still


def test_the_moments_move_with_the_features(stream, tmp_path):
    found, task, model, teacher = finished_first_task(stream, tmp_path)
    with torch.no_grad():
        model.decoder.conv.weight.add_(0.05 * torch.randn_like(model.decoder.conv.weight))
    sums = found.moments.sums.clone()
    found.align(task, model, teacher, make_trainer(tmp_path / "second"))
    seen_there = look(task, model, teacher, make_trainer(tmp_path / "third"))
    expected = FeatureMoments(sums).moved(fit_drift(seen_there.before, seen_there.after)).sums
    torch.testing.assert_close(found.moments.sums, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found.moments.sums, sums, rtol=0.01)


def test_a_restart_goes_on_with_what_was_finished(stream, tmp_path):
    found, task, model, teacher = finished_first_task(stream, tmp_path)
    again = Alignment()
    again.load_tensors(found.tensors())
    found.load_tensors(found.tensors())  # as it is after every task
    trainer = make_trainer(tmp_path / "second")
    found.align(task, model, teacher, trainer)
    expected = classifiers_of(model).tensors()
    _, other, _ = second_task(stream)
    again.align(task, other, teacher, trainer)
    assert all(torch.equal(value, expected[name]) for name, value in classifiers_of(other).tensors().items())
    assert torch.equal(found.moments.sums, again.moments.sums)


def test_features_of_the_first_task_are_counted_by_their_labels(stream, tmp_path):
    model, trainer = first_model(stream), make_trainer(tmp_path)
    found = Alignment()
    found.finish(stream.task(0), model, trainer)
    expected = torch.zeros(11)
    for _, labels in trainer.passes(stream.task(0), model, "features"):
        at = labels[:, 8::16, 8::16]  # the centres of cells of 16 x 16 pixels
        expected += torch.bincount(at[at != 255].flatten(), minlength=11)
    assert expected[1:].any() and torch.equal(found.moments.counts.float(), expected)


def test_features_of_a_later_task_join_those_of_the_earlier_ones(stream, tmp_path):
    found, task, model, _ = finished_first_task(stream, tmp_path)
    before = found.moments.counts
    found.finish(task, model, make_trainer(tmp_path / "second"))
    assert len(found.moments.counts) == 16 and found.moments.counts[11:].any()
    assert (found.moments.counts[:11] >= before).all()


def test_background_of_a_later_task_is_what_the_model_sees_among_old_classes(stream):
    task = stream.task(1)
    logits = torch.full((1, 16, 1, 4), -9.0)
    for place, (channel, second) in enumerate([(5, 0), (12, 7), (13, 2), (3, 0)]):
        logits[0, channel, 0, place], logits[0, second, 0, place] = 2, 1
    labels = torch.tensor([[[0, 0, 14, 255]]], dtype=torch.uint8)
    assert _answers(logits, labels, task).tolist() == [5, 7, 14, 255]
    assert _answers(logits, labels, stream.task(0)).tolist() == [0, 0, 14, 255]


@pytest.mark.parametrize("first_is_void", [True, False])
def test_tasks_of_void_alone(stream, tmp_path, monkeypatch, first_is_void):
    """Learns what it can, and ends with finite classifiers; the moments count no feature of such a task."""

    def void_only(trainer):
        passes = trainer.passes
        monkeypatch.setattr(trainer, "passes", lambda *a: ((x, torch.full_like(y, 255)) for x, y in passes(*a)))
        return trainer

    task, model, teacher = second_task(stream)
    found, first = Alignment(), make_trainer(tmp_path / "first")
    found.finish(stream.task(0), teacher, void_only(first) if first_is_void else first)
    assert bool(found.moments.counts.any()) is not first_is_void
    before = classifiers_of(model).tensors()
    found.align(task, model, teacher, void_only(make_trainer(tmp_path / "second")))
    after = classifiers_of(model).tensors()
    assert [not torch.equal(value, after[name]) for name, value in before.items()] == [not first_is_void] * 2
    assert all(value.isfinite().all() for value in after.values())
    counts = found.moments.counts
    found.finish(task, model, void_only(make_trainer(tmp_path / "third")))
    assert torch.equal(found.moments.counts[:11], counts) and not found.moments.counts[11:].any()


def test_a_sample_of_many_features_still_counts_as_all(stream, tmp_path, monkeypatch):
    task, model, teacher = second_task(stream)
    everything = look(task, model, teacher, make_trainer(tmp_path / "all"))
    assert everything.frequency == len(everything.labels) > 40
    monkeypatch.setattr(alignment, "MOST", 40)
    some = look(task, model, teacher, make_trainer(tmp_path / "some"))
    assert len(some.labels) <= 40 and some.frequency == everything.frequency
    known = {tuple(row.tolist()) for row in everything.before}
    assert all(tuple(row.tolist()) in known for row in some.before)
    assert not (some.labels == 255).any() and (some.labels >= 11).any()


def test_features_of_all_processes_count(stream, tmp_path):
    """Two processes that have seen the same: twice what one has."""
    task, model, teacher = second_task(stream)

    def measured(world):
        trainer, found = make_trainer(tmp_path / str(world)), Alignment()
        trainer.processes = SimpleNamespace(
            world=1, rank=0, is_main=True, device=torch.device("cpu"), first=lambda work: work(),
            sum=lambda tensor: world * tensor,
        )  # fmt: skip
        found.finish(stream.task(0), teacher, trainer)
        return found.moments.sums, look(task, model, teacher, trainer).frequency

    (one, few), (two, many) = measured(1), measured(2)
    assert torch.equal(two, 2 * one) and many == 2 * few


def test_rows_and_labels_are_of_the_same_places():
    labels = torch.arange(2 * 32 * 48).reshape(2, 32, 48)
    features = torch.arange(2 * 5 * 2 * 3).reshape(2, 5, 2, 3).float()
    assert torch.equal(at_places(labels, features.shape[-2:]), labels[:, 8::16, 8::16])
    assert torch.equal(_rows(features)[3 + 1], features[0, :, 1, 1])


def test_classifiers_as_one_linear_layer(stream):
    _, model, _ = second_task(stream)
    found = classifiers_of(model)
    weight, bias = found.weight, found.bias
    features = torch.randn(2, 256, 3, 3)
    expected = torch.cat([classify(features) for classify in model.classifiers], 1)
    torch.testing.assert_close(F.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2), expected)
    set_classifiers(model, Classifiers(2 * weight, bias + 1))
    torch.testing.assert_close(model.classifiers[1].weight[:, :, 0, 0], 2 * weight[11:])
    torch.testing.assert_close(model.classifiers[0].bias, bias[:11] + 1)
