"""Image counts of the published VOC 2012 streams, from the values in every official mask (train_aug and val)."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tasks.protocol import seen_classes, select_images, split_classes

COUNTS = {  # protocol: overlap, disjoint, test
    "15-1": (
        [9568, 487, 299, 491, 500, 548],
        [8437, 378, 299, 420, 500, 548],
        [1240, 1277, 1329, 1353, 1421, 1449],
    ),
    "15-5": ([9568, 2145], [8437, 2145], [1240, 1449]),
    "19-1": ([10410, 548], [10034, 548], [1421, 1449]),
    "10-1": (
        [6139, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548],
        [3706, 188, 868, 227, 201, 3247, 378, 299, 420, 500, 548],
        [869, 893, 1005, 1081, 1140, 1240, 1277, 1329, 1353, 1421, 1449],
    ),
    "5-3": (
        [2836, 2331, 1542, 2095, 4484, 1468],
        [1753, 1517, 624, 1296, 3924, 1468],
        [433, 699, 893, 1140, 1329, 1449],
    ),
}


def read_presence(name: str) -> np.ndarray:
    path = Path(__file__).parent / "oracles" / f"voc2012_class_presence_{name}.csv"
    with path.open(newline="") as file:
        values = [[int(value) for value in row["mask_values"].split()] for row in csv.DictReader(file)]
    presence = np.zeros((len(values), 256), dtype=bool)
    for row, present in zip(presence, values, strict=True):
        row[present] = True
    return presence


TRAIN, TEST = read_presence("train_aug"), read_presence("val")


def test_list_lengths():
    assert (len(TRAIN), len(TEST)) == (10582, 1449)


@pytest.mark.parametrize("protocol", COUNTS)
def test_counts(protocol):
    groups = split_classes(protocol, 20)
    overlap, disjoint, test = COUNTS[protocol]
    tasks = range(len(groups))
    assert [len(select_images(TRAIN, groups, index, "overlap", "train")) for index in tasks] == overlap
    assert [len(select_images(TRAIN, groups, index, "disjoint", "train")) for index in tasks] == disjoint
    assert [len(select_images(TRAIN, groups, index, "sequential", "train")) for index in tasks] == disjoint
    assert [len(select_images(TEST, groups, index, "overlap", "test")) for index in tasks] == test


@pytest.mark.parametrize("protocol", COUNTS)
def test_counting_the_background_as_a_class_is_wrong(protocol):
    """Negative control: background is in nearly every mask, so the first task would take images without its classes."""
    groups = split_classes(protocol, 20)
    overlap, _, test = COUNTS[protocol]
    assert TRAIN[:, groups[0]].any(axis=1).sum() != overlap[0]
    assert TEST[:, seen_classes(groups, 0)].any(axis=1).sum() != test[0]


def test_excluding_old_classes_is_wrong():
    """Negative control: disjoint excludes future classes only; without old ones too the counts are far lower."""
    groups = split_classes("15-5", 20)
    current, old = TRAIN[:, groups[1]].any(axis=1), TRAIN[:, groups[0][1:]].any(axis=1)
    assert (current & ~old).sum() < COUNTS["15-5"][1][1]
