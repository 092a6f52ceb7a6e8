"""A stream cut from a small data set in memory, and the sentences for choices that do not fit."""

import numpy as np
import pytest
import torch

from tasks import InputError, Stream
from tasks.views import WholeImage

NAMES = ["background", "cat", "dog", "cow", "bus", "car"]
TRAIN = [{0, 1}, {1, 2, 255}, {0, 3}, {2, 4}, {5}, {0, 255}]
TEST = [{1}, {2, 3}, {4, 5}, {0}]


class Memory:
    """One 16 x 16 mask per image, made of stripes of its values."""

    name = "memory"
    class_names = NAMES

    def __init__(self, train=TRAIN, test=TEST):
        self.masks = {"train": train, "test": test}

    def presence(self, split):
        return np.array([np.isin(np.arange(256), list(values)) for values in self.masks[split]])

    def load(self, split, index):
        mask = np.resize(np.array(sorted(self.masks[split][index]), np.uint8), (16, 16))
        return np.repeat(mask[..., None], 3, 2), mask

    def image_id(self, split, index):
        return f"{split}_{index}"

    def fingerprint(self):
        return "0"


def cut(protocol="2-1", **choices):
    source = choices.pop("source", Memory())
    return Stream.cut(source, protocol, **choices)


def test_tasks_by_hand():
    tasks = list(cut())
    assert [task.new_classes for task in tasks] == [[0, 1, 2], [3], [4], [5]]
    assert [task.old_classes for task in tasks] == [[], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert tasks[2].seen_classes == [0, 1, 2, 3, 4]
    assert [task.train_indices.tolist() for task in tasks] == [[0, 1, 3], [2], [3], [4]]
    assert [task.test_indices.tolist() for task in tasks] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert [len(task.train(WholeImage())) for task in tasks] == [3, 1, 1, 1]


def test_setting_and_policies_reach_the_tasks():
    assert cut(setting="disjoint").task(0).train_indices.tolist() == [0, 1]
    assert cut(future="ignore").task(0).test_lut[[1, 4, 255]].tolist() == [1, 255, 255]
    assert cut(void="background").task(0).train_lut[255] == 0
    assert cut(setting="sequential").task(1).train_lut[[1, 3]].tolist() == [1, 3]


def test_images_of_a_task_have_channels_as_labels():
    task = cut(protocol="1-1", order=["car", "dog", "cat", "cow", "bus"]).task(2)
    assert task.seen_classes == [0, 5, 2, 1]
    _, label = task.train(WholeImage())[1, 0]  # the second image with a cat: cat, dog, void
    assert set(label.unique().tolist()) == {0, 3, 255}
    _, label = task.test(WholeImage())[1, 0]  # dog and cow: the dog keeps its channel, the cow comes later
    assert torch.equal(label.unique(), torch.tensor([0, 2], dtype=torch.uint8))


@pytest.mark.parametrize("classes", [["cow", "cat", "bus"], [3, 1, 4], ["3", "1", "bus"]])
def test_subset_is_kept_in_the_order_of_ids(classes):
    assert cut("1-2", classes=classes).groups == [[0, 1], [3, 4]]


@pytest.mark.parametrize("order", [["bus", "cow", "cat"], [4, "3", "cat"]])
def test_order_of_a_subset(order):
    assert cut("1-1", classes=["cat", "cow", "bus"], order=order).groups == [[0, 4], [3], [1]]


def test_subset_leaves_other_classes_in_the_background():
    task = cut("1-1", classes=["cat", "cow"]).task(0)
    assert task.train_lut[[0, 1, 2, 3, 255]].tolist() == [0, 1, 0, 0, 255]


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (
            {"classes": ["cat", "horse"]},
            "--classes: 'horse' is not a class of memory, which has 1 to 5; choose from cat, dog",
        ),
        ({"classes": ["background", "cat"]}, "--classes: 'background' is not a class"),
        ({"classes": ["cat", 0]}, "--classes: '0' is not a class"),
        ({"classes": ["cat", 6]}, "--classes: '6' is not a class"),
        ({"classes": ["cat", -1]}, "--classes: '-1' is not a class"),
        ({"classes": ["cat", "²"]}, "--classes: '²' is not a class"),
        ({"classes": ["cat", "dog", 1]}, "--classes names a class twice: cat dog 1"),
        ({"order": ["horse"]}, "--order: 'horse' is not a class"),
        ({"order": [1, 2, 3, 4, 4]}, "--order names a class twice"),
        ({"order": ["dog", "cat"]}, "--order must name each of the 5 classes .* it names dog, cat"),
        ({"classes": [1, 2, 3], "order": [1, 2, 4]}, "--order must name each of the 3 classes .* cat, dog, bus"),
        ({"protocol": "4-2"}, "'4-2' does not fit 5 classes"),
        ({"protocol": "2-1", "classes": ["cat", "dog"]}, "'2-1' leaves nothing to learn"),
    ],
)
def test_choices_that_do_not_fit(choices, says):
    with pytest.raises(InputError, match=says):
        cut(**choices)


@pytest.mark.parametrize(("train", "test", "split"), [(TRAIN[:4], TEST, "train"), (TRAIN, [{0}, {5}], "test")])
def test_task_without_images(train, test, split):
    stream = cut("2-1" if split == "train" else "1-1", source=Memory(train, test), setting="overlap")
    with pytest.raises(InputError, match=rf"Task \d \(c[a-z]+\) has no {split} image in the overlap setting of memory"):
        list(stream)


def test_task_without_images_in_the_disjoint_setting_alone():
    source = Memory(train=[{1}, {2, 4}, {3}, {4}, {5}])
    assert cut("1-1", source=source).task(1).train_indices.tolist() == [1]
    with pytest.raises(InputError, match=r"Task 1 \(dog\) has no train image in the disjoint setting.*--setting"):
        cut("1-1", source=source, setting="disjoint").task(1)


def test_joint_learns_everything_at_once():
    stream = cut(order=[5, 4, 3, 2, 1], setting="disjoint", future="ignore", void="background")
    joint = stream.joint()
    (task,) = joint
    assert task.seen_classes == task.new_classes == [0, 5, 4, 3, 2, 1]
    assert task.train_indices.tolist() == [0, 1, 2, 3, 4] and task.test_indices.tolist() == [0, 1, 2]
    assert task.train_lut[[0, 5, 1, 255]].tolist() == [0, 1, 5, 0]
    assert (joint.setting, joint.future, joint.void) == ("disjoint", "ignore", "background")


def test_description_counts_the_images():
    lines = cut(setting="disjoint").describe().splitlines()
    assert lines[0] == "memory, disjoint setting, 4 tasks"
    assert [line.split() for line in lines[1:]] == [
        ["task", "0:", "2", "train,", "2", "test", "images:", "cat,", "dog"],
        ["task", "1:", "1", "train,", "2", "test", "images:", "cow"],
        ["task", "2:", "1", "train,", "3", "test", "images:", "bus"],
        ["task", "3:", "1", "train,", "3", "test", "images:", "car"],
    ]
    assert "1 task" in cut().joint().describe().splitlines()[0]


def test_description_says_that_nothing_is_background():
    """As where ids count the background as 1."""
    line = "no training mask holds 0, the background"
    assert line in cut(source=Memory([{1, 2}, {3}, {4, 255}, {5}])).describe()
    assert line not in cut().describe()
    pixels_of_images = Stream(Memory([{1}, {2}], [{1}, {2}]), [[1], [2]])  # labels of images have no background
    assert line not in pixels_of_images.describe()


def test_description_of_many_classes_is_short():
    source = Memory(train=[{c} for c in range(1, 10)], test=[{c} for c in range(1, 10)])
    source.class_names = ["background", *(f"c{number}" for number in range(1, 10))]
    assert "c1 ... c8 (8 classes)" in cut("8-1", source=source).describe()
