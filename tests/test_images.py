"""Crops, label tables and batches. Images are made from their masks, so that one shows where the other was sampled."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tasks.batches import TaskImages, TestBatches, TrainBatches
from tasks.views import CentreCrop, RandomCrop, WholeImage

LUT = np.full(256, 255, np.uint8)
LUT[[0, 4, 9]] = [0, 1, 2]


def blocks(seed=0, height=40, width=56, side=8):
    """Mask of blocks of the values 0, 4, 9 and 255; grey image of the same values."""
    values = np.random.default_rng(seed).choice([0, 4, 9, 255], (height // side, width // side)).astype(np.uint8)
    mask = np.kron(values, np.ones((side, side), np.uint8))
    return np.repeat(mask[..., None], 3, 2), mask


@pytest.fixture
def source():
    return SimpleNamespace(load=lambda split, index: blocks(index))


@pytest.fixture
def images(source):
    return TaskImages(source, "train", np.array([5, 3, 8, 0, 1, 2, 9]), LUT, RandomCrop(32))


def test_item_is_the_chosen_image_with_mapped_labels(source):
    images = TaskImages(source, "train", np.array([5, 3]), LUT, WholeImage())
    image, label = images[1, 0]
    pixels, mask = blocks(3)
    assert len(images) == 2
    assert image.dtype == label.dtype == torch.uint8 and image.shape == (3, 48, 64) and label.shape == (48, 64)
    np.testing.assert_array_equal(image[:, :40, :56].numpy(), pixels.transpose(2, 0, 1))
    expected = np.select([mask == 0, mask == 4, mask == 9], [0, 1, 2], 255)
    np.testing.assert_array_equal(label[:40, :56].numpy(), expected)


@given(st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_whole_image_pads_to_a_multiple_of_16(height, width):
    rng = np.random.default_rng(height * 100 + width)
    pixels, mask = rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 21, (height, width), np.uint8)
    image, label = WholeImage()(pixels, mask)
    assert image.shape[:2] == label.shape == tuple(-(-side // 16) * 16 for side in (height, width))
    np.testing.assert_array_equal(image[:height, :width], pixels)
    np.testing.assert_array_equal(label[:height, :width], mask)
    assert (label == 255).sum() == label.size - mask.size
    np.testing.assert_array_equal(image[-1, -1], pixels[-1, -1])


def test_centre_crop_by_hand():
    """20 x 40 to a short side of 10: 10 x 20, of which the columns 5 to 14 stay, so the source columns 10 to 29."""
    mask = np.repeat(np.arange(40, dtype=np.uint8)[None] // 2, 20, 0)
    image, label = CentreCrop(10)(np.repeat(mask[..., None], 3, 2), mask)
    assert image.shape == (10, 10, 3) and label.shape == (10, 10)
    np.testing.assert_array_equal(label, np.repeat(np.arange(5, 15)[None], 10, 0))
    np.testing.assert_array_equal(image[..., 0], label)


def test_centre_crop_enlarges_small_images_and_keeps_square_ones():
    pixels, mask = blocks(height=16, width=24)
    image, label = CentreCrop(32)(pixels, mask)
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(label, np.kron(mask[:, 4:20], np.ones((2, 2), np.uint8)))
    pixels, mask = blocks(height=32, width=32)
    np.testing.assert_array_equal(CentreCrop(32)(pixels, mask)[0], pixels)


def test_shrinking_averages_the_image_but_never_the_mask():
    """Stripes of 200 0 0 200 become grey; bilinear sampling looks at the two middle ones of four columns alone."""
    mask = np.tile(np.array([200, 0, 0, 200], np.uint8), (64, 16))
    image, label = CentreCrop(16)(np.repeat(mask[..., None], 3, 2), mask)
    assert abs(image.astype(int) - 100).max() <= 1
    assert set(np.unique(label)) <= {0, 200}


@pytest.mark.parametrize("crop", [RandomCrop(32), CentreCrop(32)], ids=["random", "centre"])
def test_image_and_mask_stay_aligned(crop):
    for seed in range(20):
        pixels, mask = blocks(seed, height=64, width=96, side=16)
        image, label = crop(pixels, mask, seed)
        agree = image[..., 0] == label
        assert image.shape == (32, 32, 3) and label.shape == (32, 32)
        assert agree.mean() > 0.5  # all but the borders of the blocks, which are interpolated in the image
        assert (image[..., 0] == label[:, ::-1]).mean() < agree.mean()


def test_random_crop_depends_on_the_seed_alone():
    crop, pair = RandomCrop(32), blocks()
    alone = [RandomCrop(32)(*pair, seed)[0] for seed in range(6)]
    for seed in (3, 0, 5, 3, 1):
        np.testing.assert_array_equal(crop(*pair, seed)[0], alone[seed])
    assert len({image.tobytes() for image in alone}) == 6


def test_random_crop_flips_about_half_of_the_images():
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None], 64, 0)
    rows = [RandomCrop(32)(np.repeat(ramp[..., None], 3, 2), ramp, seed)[1][0].astype(int) for seed in range(60)]
    flipped = sum(row[0] > row[-1] for row in rows)
    assert 15 < flipped < 45
    widths = [np.ptp(row) / 63 for row in rows]
    assert min(widths) > 0.5**0.5 * 0.75**0.5 - 0.05 and min(widths) < 0.8 and max(widths) > 0.95


@given(st.integers(1, 60), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_processes_share_the_batches_of_one_process(images, share, world, epoch):
    batch = share * world
    alone = TrainBatches(images, batch, [1, 2])
    parts = [TrainBatches(images, batch, [1, 2], rank, world) for rank in range(world)]
    for batches in (alone, *parts):
        batches.epoch = epoch
    whole, slices = list(alone), [list(part) for part in parts]
    assert all(len(part) == len(alone) for part in (*slices, whole))
    for step, expected in enumerate(whole):
        assert [item for part in slices for item in part[step]] == expected
        assert len(expected) == batch


@given(st.integers(1, 60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_an_epoch_drops_the_last_incomplete_batch_only(images, batch):
    positions = [position for part in TrainBatches(images, batch, [0]) for position, _ in part]
    assert len(positions) == max(1, images // batch) * batch
    seen = np.bincount(positions, minlength=images)
    if images >= batch:
        assert seen.max() == 1
    else:  # a task of a few images goes round again
        assert seen.min() >= 1 and seen.max() - seen.min() <= 1


def test_epochs_and_seeds_differ_and_repeat():
    def epoch(number, seed=(0,)):
        batches = TrainBatches(40, 8, seed)
        batches.epoch = number
        return list(batches)

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1) and epoch(0) != epoch(0, (1,))
    order, again = ([position for batch in epoch(number) for position, _ in batch] for number in (0, 1))
    assert order != again and sorted(order) == sorted(again) == list(range(40))


def test_repetitions_in_a_tiny_task_are_augmented_anew():
    (batch,) = TrainBatches(2, 8, [0])
    assert len({seed for _, seed in batch}) == 8


def test_workers_do_not_change_what_is_seen(images):
    def epochs(workers):
        batches = TrainBatches(len(images), 2, [7])
        loader = DataLoader(images, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
        for batches.epoch in range(2):
            yield from ((pixels.clone(), labels.clone()) for pixels, labels in loader)

    alone, shared = list(epochs(0)), list(epochs(2))
    assert len(alone) == len(shared) == 6
    for (pixels, labels), (others, other_labels) in zip(alone, shared, strict=True):
        assert torch.equal(pixels, others) and torch.equal(labels, other_labels)


@given(st.integers(0, 100), st.integers(1, 12), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_every_test_image_is_seen_once(images, batch, world):
    parts = [TestBatches(images, batch, rank, world) for rank in range(world)]
    positions = [position for part in parts for items in part for position, _ in items]
    assert sorted(positions) == list(range(images))
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]
    assert all(0 < len(items) <= batch for part in parts for items in part)
