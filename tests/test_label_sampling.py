"""Labels are sampled at the centres of pixels, as images are: a perfect predictor gets (nearly) full marks."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from css.metrics import ConfusionMatrix
from tasks import views
from tasks.datasets.shapes import render
from tasks.views import CentreCrop, RandomCrop

CLASSES = 3  # one for each colour channel
ROOT = Path(__file__).parents[1]


def fine_mask(seed: int) -> np.ndarray:
    """Background, two classes: the shapes of two scenes of the built-in data set beside each other, and thin bars."""
    scenes = [render(240, seed, "train", index)[1] for index in range(2)]
    mask = np.where(np.concatenate(scenes, 1) > 0, 1, 0).astype(np.uint8)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        start, end = (tuple(rng.integers(0, (480, 240)).tolist()) for _ in range(2))
        cv2.line(mask, start, end, 2, 13)
    return mask


def perfect_score(view) -> float:
    """mIoU in % of a predictor that sees, in the colours of every pixel of the view, how much of it each class covers.

    The image is the mask's classes as pure red, green and blue: the view resamples it as any image.
    """
    confusion = ConfusionMatrix(CLASSES)
    for seed in range(12):
        mask = fine_mask(seed)
        seen, labels = view(255 * np.eye(CLASSES, dtype=np.uint8)[mask], mask, seed)
        confusion.update(torch.from_numpy(seen.argmax(2)), torch.from_numpy(labels))
    return 100 * confusion.iou().mean().item()


@pytest.mark.parametrize(("view", "least"), [(CentreCrop, 99.0), (RandomCrop, 98.5)])  # which shrinks more one way
def test_the_perfect_predictor(view, least, monkeypatch):
    assert perfect_score(view(96)) >= least
    monkeypatch.setitem(views._RESAMPLING, "mask_interpolation", cv2.INTER_NEAREST)  # corners
    assert perfect_score(view(96)) < 95


@pytest.mark.parametrize("crop", [32, 96, 360])
def test_centre_crop_takes_the_labels_that_pillow_does(crop):
    """Pillow's nearest is what the published code samples masks with."""
    mask = fine_mask(0)
    width, height = round(480 / 240 * crop), crop
    resized = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    left = (width - crop) // 2
    same = CentreCrop(crop)(np.repeat(mask[..., None], 3, 2), mask)[1] == resized[:, left : left + crop]
    assert same.mean() > 0.999  # where a centre lies between two pixels, either may be taken


def test_no_code_samples_labels_at_corners():
    """OpenCV's INTER_NEAREST and PyTorch's "nearest" do; the exact kinds of both do not."""
    corners = re.compile(r"INTER_NEAREST\b(?!_EXACT)|mode=[\"']nearest[\"']")
    files = [path for package in ("tasks", "css", "plop_baseline") for path in (ROOT / package).rglob("*.py")]
    found = [
        f"{path}: {line}" for path in files for line in path.read_text().splitlines()
        if corners.search(line.partition("#")[0])
    ]  # fmt: skip
    assert len(files) > 50 and not found
