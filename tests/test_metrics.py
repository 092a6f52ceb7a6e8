"""Metrics by hand-made examples and by properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from css.metrics import ConfusionMatrix, average_over_tasks, continual_accuracy, group_means

NAN = float("nan")


def random_labels(seed, num_classes, size=200):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randint(num_classes, (size,), generator=generator, dtype=torch.uint8)
    target = torch.randint(num_classes + 2, (size,), generator=generator, dtype=torch.uint8)
    return pred, torch.where(target > num_classes, 255, target).to(torch.uint8)


def confusion_of(pred, target, num_classes):
    confusion = ConfusionMatrix(num_classes)
    confusion.update(pred, target)
    return confusion


def test_rows_are_ground_truth_and_void_is_dropped():
    confusion = confusion_of(torch.tensor([[1, 2, 2, 0]]), torch.tensor([[0, 2, 255, 3]]), 3)
    assert confusion.matrix.dtype == torch.int64
    assert confusion.matrix.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_uint8_labels_do_not_overflow():
    """20 * 21 + 20 does not fit into a byte."""
    labels = torch.full((2, 3, 3), 20, dtype=torch.uint8)
    assert confusion_of(labels, labels, 21).matrix[20, 20] == 18


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), num_classes=st.integers(1, 30), cut=st.integers(0, 200))
def test_parts_add_up_and_equal_a_loop_over_pixels(seed, num_classes, cut):
    pred, target = random_labels(seed, num_classes)
    whole = confusion_of(pred, target, num_classes)
    parts = confusion_of(pred[:cut], target[:cut], num_classes) + confusion_of(pred[cut:], target[cut:], num_classes)
    assert torch.equal(whole.matrix, parts.matrix)
    by_pixel = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for p, t in zip(pred.tolist(), target.tolist(), strict=True):
        if t < num_classes:
            by_pixel[t, p] += 1
    assert torch.equal(whole.matrix, by_pixel)


def test_perfect_prediction_and_absent_class():
    labels = torch.tensor([0, 0, 1])
    confusion = confusion_of(labels, labels, 3)
    torch.testing.assert_close(
        confusion.iou(), torch.tensor([1.0, 1.0, NAN]).double(), rtol=0, atol=1e-6, equal_nan=True
    )
    assert confusion.iou().dtype == torch.float64
    assert confusion.summary()["mean_iou"] == pytest.approx(1)


def test_class_without_ground_truth_is_absent_even_if_predicted():
    confusion = confusion_of(torch.tensor([0, 2]), torch.tensor([0, 0]), 3)
    assert confusion.iou().isnan().tolist() == [False, True, True]
    assert confusion.iou()[0].item() == pytest.approx(0.5)  # the wrong pixel is a miss of its true class


def test_nothing_counted():
    confusion = confusion_of(torch.tensor([0, 1]), torch.tensor([255, 255]), 2)
    assert set(confusion.summary().values()) == {None}
    assert set(confusion.groups(1).values()) == {None}


@pytest.mark.parametrize("wrong", [2, -1])
def test_prediction_outside_the_classes(wrong):
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        confusion_of(torch.tensor([wrong]), torch.tensor([0]), 2)


def test_shapes_differ():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_of(torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), 2)


def test_groups():
    iou = torch.tensor([0.9, 0.5, NAN, 0.2, 0.4], dtype=torch.float64)
    assert group_means(iou, num_first=3) == pytest.approx(
        {"old": 0.7, "old_no_bg": 0.5, "new": 0.3, "all": 0.5, "all_no_bg": 1.1 / 3, "harmonic": 0.42}
    )
    first_task = group_means(iou, num_first=5)
    assert first_task["old"] == first_task["all"] == pytest.approx(0.5)
    assert first_task["new"] is None and first_task["harmonic"] is None
    assert group_means(iou[:1], num_first=1)["old_no_bg"] is None
    assert group_means(torch.zeros(4), num_first=2)["harmonic"] == 0


def test_groups_of_a_matrix():
    confusion = ConfusionMatrix(3)
    confusion.matrix = torch.tensor([[8, 2, 0], [0, 0, 0], [0, 0, 4]])
    groups = confusion.groups(num_first=2)
    assert groups["old"] == pytest.approx(0.8)
    assert groups["old_no_bg"] is None
    assert groups["new"] == groups["all_no_bg"] == pytest.approx(1)


def test_continual_accuracy():
    acc, bwt = continual_accuracy([[90], [85, 80], [86, 76, 70]])
    assert acc == pytest.approx(232 / 3)
    assert bwt == pytest.approx(-4)  # over the first two tasks; over all three it would be -2.67
    assert continual_accuracy([[90]]) == (90, None)


@pytest.mark.parametrize("matrix", [[], [[90], [85]], [[90, 0], [85, 80]]])
def test_accuracy_matrix_of_another_shape(matrix):
    with pytest.raises(ValueError, match="1, 2, 3"):
        continual_accuracy(matrix)


def test_published_average_over_tasks():
    """PLOP on VOC 15-1: `all` after each task, and the published average, which counts task 0."""
    values = [80.34, 74.29, 69.74, 65.39, 58.84, 54.64]
    assert round(average_over_tasks(values), 2) == 67.21
    assert round(average_over_tasks(values[1:]), 2) != 67.21
