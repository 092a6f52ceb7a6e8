"""Protocols, image selection and label tables on small cases whose answers are written down by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.protocol import SETTINGS, label_lut, seen_classes, select_images, split_classes

ANIMALS = [8, 10, 12, 13, 15, 17]


def presence_of(*masks: set[int]) -> np.ndarray:
    return np.array([np.isin(np.arange(256), list(values)) for values in masks])


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        ("19-1", [19, 1]),
        ("15-5", [15, 5]),
        ("15-1", [15, 1, 1, 1, 1, 1]),
        ("10-1", [10] + [1] * 10),
        ("5-3", [5] + [3] * 5),
        ("1-1", [1] * 20),
        ("20-0", [20]),
    ],
)
def test_group_sizes_on_voc(protocol, sizes):
    groups = split_classes(protocol, 20)
    assert [len(group) for group in groups] == [1 + sizes[0], *sizes[1:]]  # the background joins the first task
    assert seen_classes(groups, len(groups) - 1) == list(range(21))


def test_class_subset_in_a_given_order():
    assert split_classes("4-1", 6, ANIMALS) == [[0, 8, 10, 12, 13], [15], [17]]
    assert split_classes("4-2", 6, ANIMALS[::-1]) == [[0, 17, 15, 13, 12], [10, 8]]


@pytest.mark.parametrize(
    ("protocol", "num_classes", "says"),
    [
        ("17-9", 20, "17-1, 17-3"),
        ("0-1", 20, "19-1"),
        ("15-0", 20, "19-1"),
        ("15-x", 20, "19-1"),
        ("15-5s", 20, "19-1"),
        ("15", 20, "19-1"),
        ("", 20, "19-1"),
        ("-15-1", 20, "19-1"),
        ("20-1", 20, "nothing to learn"),
        ("25-5", 20, "nothing to learn"),
        ("4-1", 4, "3-1"),
        ("1-1", 1, "a single task of all classes is 1-0"),
        ("0-0", 0, "at least 2"),
    ],
)
def test_protocol_that_does_not_fit(protocol, num_classes, says):
    with pytest.raises(InputError) as caught:
        split_classes(protocol, num_classes)
    assert repr(protocol) in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ([1, 2], "2 classes instead of 3"),
        ([1, 2, 2], "class 2 more than once"),
        ([0, 1, 2], "names 0"),
        ([1, 2, 255], "names 255"),
    ],
)
def test_order_that_is_no_list_of_distinct_foreground_ids(order, says):
    with pytest.raises(InputError, match=says):
        split_classes("2-1", 3, order)


@given(st.data())
def test_every_class_is_learnt_once_in_order(data):
    order = data.draw(st.lists(st.integers(1, 254), min_size=2, max_size=40, unique=True))
    first = data.draw(st.integers(1, len(order) - 1))
    step = data.draw(st.sampled_from([n for n in range(1, len(order)) if (len(order) - first) % n == 0]))
    groups = split_classes(f"{first}-{step}", len(order), order)
    assert [class_id for group in groups for class_id in group] == [0, *order]
    assert len(groups[0]) == first + 1 and {len(group) for group in groups[1:]} == {step}


def test_selection_by_hand():
    groups = [[0, 1, 2], [3], [4]]
    presence = presence_of({0}, {0, 1, 255}, {0, 3}, {1, 3}, {3, 4, 255}, {0, 4}, {0, 255})
    assert list(select_images(presence, groups, 0, "overlap", "train")) == [1, 3]
    assert list(select_images(presence, groups, 0, "disjoint", "train")) == [1]
    assert list(select_images(presence, groups, 1, "overlap", "train")) == [2, 3, 4]
    assert list(select_images(presence, groups, 1, "disjoint", "train")) == [2, 3]
    assert list(select_images(presence, groups, 1, "sequential", "train")) == [2, 3]
    for setting in SETTINGS:
        assert list(select_images(presence, groups, 1, setting, "test")) == [1, 2, 3, 4]
        assert select_images(presence, groups, 1, setting, "test").dtype == np.int64


def test_classes_outside_the_subset_never_exclude_an_image():
    groups = split_classes("4-1", 6, ANIMALS)
    presence = presence_of({0, 8, 20}, {8, 15}, {20}, {0, 5, 13, 255})
    assert list(select_images(presence, groups, 0, "disjoint", "train")) == [0, 3]  # 20 is no future class, 15 is
    assert list(select_images(presence, groups, 0, "overlap", "test")) == [0, 1, 3]


def official_disjoint(presence: np.ndarray, groups: list[list[int]], index: int) -> list[int]:
    """The rule as published: a current class, and no value outside old + current + {0, 255}."""
    seen = {*seen_classes(groups, index), 0, 255}
    current = set(groups[index]) - {0}
    masks = [set(np.flatnonzero(row)) for row in presence]
    return [i for i, values in enumerate(masks) if values & current and values <= seen]


@given(
    st.sampled_from(["19-1", "15-1", "10-1", "5-3"]),
    st.permutations(range(1, 21)),
    st.lists(st.sets(st.sampled_from([*range(21), 255]), max_size=4), min_size=1, max_size=30),
)
def test_disjoint_is_the_official_rule_when_all_classes_are_learnt(protocol, order, masks):
    groups, presence = split_classes(protocol, 20, order), presence_of(*masks)
    for index in range(len(groups)):
        chosen = select_images(presence, groups, index, "disjoint", "train")
        assert list(chosen) == official_disjoint(presence, groups, index)
        assert set(chosen) <= set(select_images(presence, groups, index, "overlap", "train"))


def test_labels_by_hand():
    groups = [[0, 9, 7], [5], [3]]  # 4 is in no group

    def labels(split: str, **options: str) -> list[int]:
        return list(label_lut(groups, 1, split, **options)[[0, 9, 7, 5, 3, 4, 255]])

    assert labels("train") == [0, 0, 0, 3, 0, 0, 255]
    assert labels("train", future="ignore") == labels("train")
    assert labels("train", void="background") == [0, 0, 0, 3, 0, 0, 0]
    assert labels("train", setting="sequential") == [0, 1, 2, 3, 0, 0, 255]
    assert labels("train", setting="disjoint") == labels("train")
    assert labels("val") == labels("train")
    assert labels("val", future="ignore", void="background") == [0, 255, 255, 3, 255, 0, 255]
    assert labels("test") == [0, 1, 2, 3, 0, 0, 255]
    assert labels("test", future="ignore", void="background") == [0, 1, 2, 3, 255, 0, 255]


@given(st.permutations(range(1, 21)), st.integers(0, 5), st.sampled_from(["background", "ignore"]))
def test_test_labels_are_the_channels(order, index, future):
    groups = split_classes("15-1", 20, order)
    lut = label_lut(groups, index, "test", future=future)
    seen = seen_classes(groups, index)
    assert lut.dtype == np.uint8 and lut.shape == (256,)
    assert list(lut[seen]) == list(range(len(seen)))
    assert set(lut) - {255} == set(range(len(seen)))


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"future": "drop"}, {"void": "drop"}, {"setting": "joint"}])
def test_unknown_label_option(wrong):
    with pytest.raises(InputError, match=next(iter(wrong.values()))):
        label_lut([[0, 1], [2]], 0, **{"split": "train", **wrong})


@pytest.mark.parametrize(("setting", "split"), [("joint", "train"), ("overlap", "val")])
def test_unknown_selection_option(setting, split):
    with pytest.raises(InputError, match="unknown"):
        select_images(presence_of({1}), [[0, 1], [2]], 0, setting, split)
