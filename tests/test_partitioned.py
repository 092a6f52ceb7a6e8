"""The partitioned setting (Kwak, Cha and Moon, arXiv 2405.09858): every image is in the task of one of its classes.

The authors' draw for VOC 15-1 (data/voc/partitioned_15-1_train_seed0.npy of jihwankwak/CISS_partitioned, commit
c856950) cannot be repeated, as their random numbers come from a shared generator; its sizes can be compared with what
the rule gives on average.
"""

import numpy as np
import pytest
from test_oracle_image_counts import TEST, TRAIN

from tasks.protocol import drawn_classes, label_lut, select_images, split_classes

PUBLISHED = [9031, 254, 266, 270, 434, 327]
GROUPS = split_classes("15-1", 20)
TASKS = range(len(GROUPS))


def task_probabilities() -> np.ndarray:
    """(images, tasks): how likely the rule puts an image into a task."""
    held = TRAIN[:, 1:21]
    by_class = held / held.sum(1, keepdims=True)
    return np.stack([by_class[:, [c - 1 for c in group if c]].sum(1) for group in GROUPS], 1)


def deviations(sizes) -> np.ndarray:
    """How many standard deviations the sizes of the tasks are off the mean of the rule."""
    chance = task_probabilities()
    return np.abs(np.array(sizes) - chance.sum(0)) / np.sqrt((chance * (1 - chance)).sum(0))


def sizes(groups=GROUPS) -> list[int]:
    return [len(select_images(TRAIN, groups, index, "partitioned", "train")) for index in range(len(groups))]


def test_published_sizes_and_ours_are_draws_of_the_same_rule():
    assert sum(PUBLISHED) == sum(sizes()) == 10582
    assert deviations(PUBLISHED).max() < 3 and deviations(sizes()).max() < 3


def test_other_rules_are_not():
    held = TRAIN[:, 1:21]
    rarest = held[:, np.argsort(held.sum(0))]
    by_rarest = np.argsort(held.sum(0))[rarest.argmax(1)] + 1
    by_first, by_last = held.argmax(1) + 1, 20 - held[:, ::-1].argmax(1)
    for drawn in (by_rarest, by_first, by_last):
        counts = [np.isin(drawn, group).sum() for group in GROUPS]
        assert deviations(counts).max() > 5
    assert deviations([len(select_images(TRAIN, GROUPS, i, "overlap", "train")) for i in TASKS]).max() > 5


def test_every_image_is_in_one_task_and_holds_its_class():
    chosen = [select_images(TRAIN, GROUPS, index, "partitioned", "train") for index in TASKS]
    assert sorted(np.concatenate(chosen).tolist()) == list(range(len(TRAIN)))
    for index, images in zip(TASKS, chosen, strict=True):
        assert TRAIN[images][:, [c for c in GROUPS[index] if c]].any(1).all()
    drawn = drawn_classes(TRAIN, GROUPS)
    assert TRAIN[np.arange(len(TRAIN)), drawn].all() and drawn.min() > 0


def test_the_draw_is_the_same_for_every_protocol_and_order():
    drawn = drawn_classes(TRAIN, GROUPS)
    np.testing.assert_array_equal(drawn_classes(TRAIN, split_classes("10-1", 20)), drawn)
    np.testing.assert_array_equal(drawn_classes(TRAIN, split_classes("5-3", 20, list(range(20, 0, -1)))), drawn)


def test_classes_left_out_are_never_drawn():
    groups = split_classes("2-1", 3, [3, 8, 15])
    presence = TRAIN.copy()
    drawn = drawn_classes(presence, groups)
    assert set(np.unique(drawn)) == {0, 3, 8, 15}
    np.testing.assert_array_equal(drawn == 0, ~presence[:, [3, 8, 15]].any(1))
    assert sum(sizes(groups)) == (drawn > 0).sum()


def test_test_images_and_labels_are_those_of_overlap():
    for index in TASKS:
        np.testing.assert_array_equal(
            select_images(TEST, GROUPS, index, "partitioned", "test"),
            select_images(TEST, GROUPS, index, "overlap", "test"),
        )
        for split in ("train", "test"):
            luts = [label_lut(GROUPS, index, split, setting=setting) for setting in ("partitioned", "overlap")]
            np.testing.assert_array_equal(*luts)


@pytest.mark.parametrize("held", [[0], [255], [0, 255]])
def test_images_without_a_class_are_in_no_task(held):
    presence = np.zeros((2, 256), bool)
    presence[0, held], presence[1, [1, *held]] = True, True
    assert drawn_classes(presence, [[0, 1], [2]]).tolist() == [0, 1]
