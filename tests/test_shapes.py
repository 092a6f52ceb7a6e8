"""The synthetic data set: deterministic, well-formed, and with the statistics that a continual stream needs."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.datasets.shapes import NUM_CLASSES, SPLITS, Shapes, partner, render, traits
from tasks.errors import InputError
from tasks.source import VOID

CLASSES = range(1, NUM_CLASSES + 1)


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes(train_images=1000, test_images=200)


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def visible_classes(shapes: Shapes, split: str) -> np.ndarray:
    """bool (images, 20): whether class 1 to 20 occurs."""
    return shapes.presence(split)[:, 1 : NUM_CLASSES + 1]


# --- classes


def test_any_two_traits_tell_the_class_and_one_does_not():
    for pair in itertools.combinations(range(3), 2):
        assert len({tuple(traits(c)[i] for i in pair) for c in CLASSES}) == NUM_CLASSES
    for i in range(3):
        assert len({traits(c)[i] for c in CLASSES}) < NUM_CLASSES


def test_late_classes_share_every_trait_with_early_ones():
    for i in range(3):
        assert {traits(c)[i] for c in range(16, 21)} <= {traits(c)[i] for c in range(1, 16)}


def test_class_names(shapes):
    assert shapes.class_names[0] == "background"
    assert len(set(shapes.class_names)) == NUM_CLASSES + 1
    assert shapes.class_names[3] == "-".join(traits(3))


def test_partners_are_mutual_and_cross_the_groups_of_15_1():
    assert all(partner(partner(c)) == c != partner(c) for c in CLASSES)
    assert {partner(c) for c in range(16, 21)} == set(range(6, 11))


# --- determinism


def test_same_parameters_same_data_in_any_order():
    forward, backward = Shapes(48, 12, 6, seed=3), Shapes(48, 12, 6, seed=3)
    seen = {(s, i): forward.load(s, i) for s in SPLITS for i in range(forward.counts[s])}
    for split, index in reversed(list(seen)):
        assert same(backward.load(split, index), seen[split, index])
        assert same(render(48, 3, split, index), seen[split, index])
    assert forward.fingerprint() == backward.fingerprint()


def test_thread_count_does_not_matter():
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        single = render(256, 0, "train", 5)
        cv2.setNumThreads(4)
        assert same(render(256, 0, "train", 5), single)
    finally:
        cv2.setNumThreads(threads)


def test_more_images_leave_the_first_ones_unchanged():
    assert same(Shapes(48, 3, 1).load("train", 2), Shapes(48, 30, 1).load("train", 2))


@pytest.mark.parametrize("other", [(48, 1, "train", 0), (48, 0, "test", 0), (48, 0, "train", 1)])
def test_seed_split_and_index_each_change_the_picture(other):
    image, mask = render(48, 0, "train", 0)
    other_image, other_mask = render(*other)
    assert not np.array_equal(image, other_image)
    assert not np.array_equal(mask, other_mask)


def test_the_splits_share_no_image(shapes):
    pictures = [shapes.load(s, i)[0].tobytes() for s in SPLITS for i in range(shapes.counts[s])]
    assert len(set(pictures)) == 1200


@pytest.mark.parametrize("change", [{"size": 64}, {"train_images": 9}, {"test_images": 9}, {"seed": 1}])
def test_fingerprint_depends_on_every_parameter(change):
    base = {"size": 48, "train_images": 8, "test_images": 8, "seed": 0}
    assert Shapes(**base).fingerprint() != Shapes(**{**base, **change}).fingerprint()


def test_fingerprint_sees_a_change_of_the_generator(monkeypatch):
    before = Shapes(48, 4, 4).fingerprint()
    monkeypatch.setattr("tasks.datasets.shapes.NOISE", 0.0)
    assert Shapes(48, 4, 4).fingerprint() != before


# --- form


@settings(max_examples=30, deadline=None)
@given(st.integers(32, 160), st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(0, 10**6))
def test_every_picture_is_well_formed(size, seed, split, index):
    image, mask = render(size, seed, split, index)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert mask.shape == (size, size) and mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, *CLASSES, VOID}
    assert 1 <= len(set(np.unique(mask)) - {0, VOID}) <= 4
    assert image.std() > 5


def test_load_gives_read_only_views(shapes):
    for array in shapes.load("train", 0):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_index_beyond_the_split_is_refused(shapes):
    with pytest.raises(IndexError):
        shapes.load("test", 200)


def test_image_ids_are_unique(shapes):
    assert len({shapes.image_id("train", i) for i in range(1000)}) == 1000


def test_presence_is_what_the_masks_hold(shapes):
    for split in SPLITS:
        presence = shapes.presence(split)
        assert presence.shape == (shapes.counts[split], 256) and presence.dtype == bool
        for index in range(0, shapes.counts[split], 7):
            assert set(np.flatnonzero(presence[index])) == set(np.unique(shapes.load(split, index)[1]))


def labels_touch(mask: np.ndarray) -> bool:
    """Whether two different labels, background included, lie side by side without void between them."""
    void = mask == VOID
    labels = np.where(void, 0, mask)
    return bool(((cv2.dilate(labels, np.ones((3, 3), np.uint8)) != labels) & ~void).any())


def wide_void(mask: np.ndarray) -> float:
    """Share of the void pixels that are the centre of a 5 x 5 square of void: none in a line up to 4 pixels wide."""
    void = (mask == VOID).astype(np.uint8)
    return cv2.erode(void, np.ones((5, 5), np.uint8), borderValue=0).sum() / void.sum()


def test_void_borders_surround_objects_and_are_narrow(shapes):
    masks = [shapes.load("train", i)[1] for i in range(100)]
    assert not any(labels_touch(mask) for mask in masks)
    assert np.mean([wide_void(mask) for mask in masks]) < 0.01

    without = [np.where(mask == VOID, 0, mask) for mask in masks]
    thicker = [np.where(cv2.dilate((m == VOID).astype(np.uint8), np.ones((5, 5))), VOID, m) for m in masks]
    assert all(labels_touch(mask) for mask in without)
    assert np.mean([wide_void(mask) for mask in thicker]) > 0.1


def test_objects_are_large_enough_for_output_stride_16(shapes):
    areas = []
    for index in range(200):
        pixels = np.bincount(shapes.load("train", index)[1].ravel(), minlength=256)[1 : NUM_CLASSES + 1]
        areas += pixels[pixels > 0].tolist()
    assert np.median(areas) > 20**2


def test_colour_of_the_object_is_the_declared_one(shapes):
    """The mean of (red, green, blue) over many objects of a class is led by the channel its name says."""
    leader = {"red": 0, "green": 1, "blue": 2}
    for c in CLASSES:
        colour = traits(c)[1]
        if colour in leader:
            indices = np.flatnonzero(shapes.presence("train")[:, c])[:30]
            means = np.mean(
                [image[mask == c].mean(0) for image, mask in (shapes.load("train", i) for i in indices)], axis=0
            )
            assert means.argmax() == leader[colour], shapes.class_names[c]


# --- statistics


def test_every_class_has_enough_images(shapes):
    assert visible_classes(shapes, "train").sum(0).min() >= 40
    assert visible_classes(shapes, "test").sum(0).min() >= 10


def test_class_frequencies_lie_between_7_and_12_percent(shapes):
    frequency = visible_classes(shapes, "train").mean(0)
    assert frequency.min() > 0.07 and frequency.max() < 0.12


def test_task_0_of_15_1_sees_most_images_but_not_all(shapes):
    share = visible_classes(shapes, "train")[:, :15].any(1).mean()
    assert 0.8 < share < 0.95


def test_images_hold_one_to_four_classes(shapes):
    counts = np.bincount(visible_classes(shapes, "train").sum(1), minlength=5)
    assert counts[0] == 0 and (counts[1:] > 0).all() and len(counts) == 5


def z_score(present: np.ndarray, a: int, b: int) -> float:
    """Standard score of the number of images holding both classes under independence (hypergeometric)."""
    n, n_a, n_b = len(present), present[:, a - 1].sum(), present[:, b - 1].sum()
    mean = n_a * n_b / n
    variance = mean * (n - n_a) * (n - n_b) / (n * (n - 1))
    return ((present[:, a - 1] & present[:, b - 1]).sum() - mean) / variance**0.5


def test_partners_meet_far_more_often_than_by_chance_and_others_do_not(shapes):
    present = visible_classes(shapes, "train")
    for a, b in itertools.combinations(CLASSES, 2):
        if partner(a) == b:
            assert z_score(present, a, b) > 5, (a, b)
        else:
            assert z_score(present, a, b) < 4, (a, b)


def test_partners_of_shuffled_images_meet_by_chance(shapes):
    """Negative control of the test above: the same class frequencies, each class shuffled over the images by itself."""
    present = np.random.default_rng(0).permuted(visible_classes(shapes, "train"), axis=0)
    assert max(z_score(present, c, partner(c)) for c in CLASSES) < 4


# --- wrong input


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "image size is 0"),
        ({"size": 31}, "from 32 to"),
        ({"size": 100_000}, "image size is 100000"),
        ({"train_images": 0}, "0 train images"),
        ({"test_images": -1}, "-1 test images"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_silly_values_are_refused_in_one_sentence(wrong, words):
    with pytest.raises(InputError, match=words) as error:
        Shapes(**wrong)
    assert str(error.value).count(".") == 1
