"""Masks drawn for people."""

import cv2
import numpy as np
import pytest
import torch

from css.report.examples import channels_that_lost, choose_examples
from css.report.overlay import (
    CONFUSED,
    INVENTED,
    MISSED,
    UNCOUNTED,
    class_pixels,
    draw_errors,
    draw_overlay,
    errors,
    heading,
    legend,
)
from css.training.image_counts import ImageCounts
from tasks.palette import vivid_palette

PHOTO = np.random.default_rng(0).integers(60, 200, (240, 320, 3), dtype=np.uint8)


def disc(label=3, size=(240, 320), radius=60):
    return cv2.circle(np.zeros(size, np.uint8), (size[1] // 2, size[0] // 2), radius, label, -1)


def test_colours_differ_and_stay():
    colours = vivid_palette()
    lab = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0][1:22]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(21)
    assert distance.min() > 20, "of 20 classes; 2 can just be told apart side by side"
    assert lab[:, 0].min() > 44 and np.hypot(lab[:, 1], lab[:, 2]).min() > 44, "neither dark nor grey"
    assert colours[0].tolist() == [0, 0, 0] and colours[255].tolist() == [255, 255, 255]
    assert len(np.unique(colours[1:255], axis=0)) == 254


def test_overlay_leaves_the_photograph_as_it_is_outside_of_objects():
    mask = disc()
    drawn = draw_overlay(PHOTO, mask)
    far = cv2.dilate(mask, np.ones((9, 9), np.uint8)) == 0
    assert (drawn[far] == PHOTO[far]).all() and (drawn[mask == 3] != PHOTO[mask == 3]).any()
    assert abs(drawn[mask == 3].mean() - PHOTO[mask == 3].mean()) < 60
    colours = {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}
    assert {tuple(vivid_palette()[3].tolist()), (255, 255, 255)} <= colours, "contour and rim"


@pytest.mark.parametrize("value", [0, 255])
def test_background_and_void_are_not_drawn(value):
    assert (draw_overlay(PHOTO, np.full((240, 320), value, np.uint8), ["background"]) == PHOTO).all()


def test_names_stand_on_their_class():
    names = ["background", "a", "b", "Käfer und noch mehr"]
    plain, named = draw_overlay(PHOTO, disc()), draw_overlay(PHOTO, disc(), names)
    rows, columns = np.nonzero((plain != named).any(2))
    assert 60 < rows.mean() < 180 and abs(columns.mean() - 160) < 20
    small = draw_overlay(PHOTO[:10, :10], np.full((10, 10), 3, np.uint8), names)  # the word is larger than the image
    assert small.shape == (10, 10, 3)


def test_errors():
    truth = np.array([[0, 0, 1, 1, 2, 255]], np.uint8)
    found = errors(truth, np.array([[0, 1, 1, 0, 1, 1]], np.uint8))
    assert found.missed.tolist() == [[0, 0, 0, 1, 0, 0]]
    assert found.invented.tolist() == [[0, 1, 0, 0, 0, 0]]
    assert found.confused.tolist() == [[0, 0, 0, 0, 1, 0]]


def test_error_map_has_a_colour_for_each_kind():
    truth, found = np.zeros((240, 320), np.uint8), np.zeros((240, 320), np.uint8)
    truth[:80], found[80:160], truth[160:200], found[160:], truth[200:] = 1, 1, 1, 2, 255
    drawn = draw_errors(PHOTO, truth, found).astype(int)
    for row, colour in ((40, MISSED), (120, INVENTED), (180, CONFUSED), (220, UNCOUNTED)):
        nearest = min(
            (MISSED, INVENTED, CONFUSED, UNCOUNTED), key=lambda c: np.abs(drawn[row, 160] - np.array(c)).sum()
        )
        assert nearest == colour


def test_class_pixels():
    mask = np.random.default_rng(1).integers(0, 5, (3000, 2000), dtype=np.uint8)
    assert (class_pixels(mask) == np.bincount(mask.ravel(), minlength=256)).all()


def test_legend_takes_as_many_lines_as_it_needs():
    entries = [(f"class {k}", vivid_palette()[k]) for k in range(1, 13)]
    wide, narrow = legend(entries, 2000), legend(entries, 200)
    assert wide.shape[1] == 2000 and narrow.shape[1] == 200 and len(narrow) > 3 * len(wide)
    assert heading("title", 100).shape[1] == 100


def test_examples_are_the_best_the_median_the_worst_and_what_lost():
    nan = np.nan
    iou = np.array([[0.9, 0.5, nan], [0.9, 0.9, nan], [0.9, nan, 0.1], [0.9, 0.3, 0.3], [0.8, nan, nan]])
    missed = np.array([[0, 5, 0], [0, 1, 0], [0, 0, 7], [0, 9, 3], [4, 0, 0]])
    counted = np.full(5, 9)
    best, median, worst, lost = choose_examples(iou, missed, counted, [1])
    assert (best.why, best.position, best.iou) == ("best", 1, 0.9), "by its objects, not by its background"
    assert median.position == 0 and worst.position == 2 and worst.iou == 0.1
    assert (lost.why, lost.position, lost.channel, lost.iou) == ("lost", 3, 1, 0.3)
    assert lost.facts([0, 7, 9]) == {"why": "lost", "iou": 0.3, "class_id": 7}
    assert choose_examples(np.full((2, 3), nan), missed[:2], np.zeros(2), []) == []
    assert choose_examples(iou, missed, np.array([9, 4, 9, 9, 9]), [])[0].position == 4, "the best one is mostly void"


def test_void_is_not_counted():
    counts, target = ImageCounts(2, 3), torch.tensor([[[0, 1], [255, 255]]])
    counts.update([1], torch.zeros_like(target), target)
    assert counts.counted().tolist() == [0, 2] and counts.missed().tolist() == [[0, 0, 0], [0, 1, 0]]


def test_an_image_is_shown_twice_only_if_there_is_no_other():
    iou, missed = np.array([[0.9, 0.2], [0.9, 0.9]]), np.array([[0, 9], [0, 0]])
    assert [example.position for example in choose_examples(iou, missed, np.ones(2), [1])] == [1, 0, 0, 0]


def test_channels_that_lost():
    history = [[0.9, 0.8, 0.5], [0.5, 0.7, 0.1, None], [0.4, 0.75, 0.2, 0.1, 0.3]]
    assert channels_that_lost(history) == [2, 1], "by loss; the background, gains and classes without truth left out"
