"""Label tables and image selection against numbers of the reference implementations of PLOP and MiB."""

import re
from pathlib import Path

import numpy as np
import pytest

from tasks.protocol import label_lut, seen_classes, select_images, split_classes

ORACLE = dict(np.load(Path(__file__).parent / "oracles" / "label_maps.npz", allow_pickle=False))
ENTRIES = range(len(ORACLE["entries"]))
POLICIES = {
    "plop": {"future": "background", "void": "ignore"},
    "mib": {"future": "ignore", "void": "background"},
}
PRESENCE = np.array([np.isin(np.arange(256), mask) for mask in ORACLE["filter_masks"]])


def stream(entry: int) -> tuple[list[list[int]], int]:
    """The groups of an entry's classes and its position; all future classes make one group."""
    old, current = (ORACLE[f"entry{entry}_labels_{which}"].tolist() for which in ("old", "current"))
    future = sorted(set(ORACLE["mask"].flat) - {*old, *current, 0, 255})
    groups = [group for group in (old, current, future) if group]
    return groups, groups.index(current)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("policy", POLICIES)
def test_label_maps(entry, split, policy):
    groups, index = stream(entry)
    labels = label_lut(groups, index, split, **POLICIES[policy])[ORACLE["mask"]]
    np.testing.assert_array_equal(labels, ORACLE[f"entry{entry}_{policy}_{split}"])


@pytest.mark.parametrize(("policy", "split", "option"), [("mib", "train", "void"), ("mib", "test", "future")])
def test_the_other_policy_gives_other_labels(policy, split, option):
    """Negative control: each option matters in some entry."""
    wrong = POLICIES[policy] | {option: POLICIES["plop"][option]}
    differs = []
    for entry in ENTRIES:
        groups, index = stream(entry)
        labels = label_lut(groups, index, split, **wrong)[ORACLE["mask"]]
        differs.append((labels != ORACLE[f"entry{entry}_{policy}_{split}"]).any())
    assert any(differs)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("setting", ["overlap", "disjoint"])
def test_training_images(entry, setting):
    groups, index = stream(entry)
    chosen = select_images(PRESENCE, groups, index, setting, "train")
    np.testing.assert_array_equal(chosen, ORACLE[f"entry{entry}_train_idx_{setting}"])


@pytest.mark.parametrize("entry", ENTRIES)
def test_test_images(entry):
    groups, index = stream(entry)
    np.testing.assert_array_equal(
        select_images(PRESENCE, groups, index, "overlap", "test"), ORACLE[f"entry{entry}_test_idx"]
    )


def test_overlap_and_disjoint_are_told_apart():
    """Negative control: the archive must hold an entry on which the two settings differ."""
    pairs = [[ORACLE[f"entry{entry}_train_idx_{setting}"] for setting in ("overlap", "disjoint")] for entry in ENTRIES]
    assert any(len(overlap) > len(disjoint) for overlap, disjoint in pairs)


@pytest.mark.parametrize("entry", ENTRIES)
def test_protocol_makes_the_listed_groups(entry):
    """Entries are named A-B@step; the suffix s stands for one class at a time, and _b for another class order."""
    first, step, single, index = re.match(r"(\d+)-(\d+)(s?)\w*@(\d+)", str(ORACLE["entries"][entry])).groups()
    groups, position = stream(entry)
    order = [int(class_id) for group in groups for class_id in group if class_id != 0]
    split = split_classes(f"{first}-{1 if single else step}", len(order), order)
    assert split[int(index)] == groups[position]
    assert seen_classes(split, int(index)) == seen_classes(groups, position)
