"""Saliency maps: what is read, how the unknown class comes into the labels, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from plop_baseline.saliency import read_map, require_maps, with_rows
from plop_baseline.unknown_class import known_or_unknown, with_unknown
from tasks import InputError, Task
from tasks.views import RandomCrop

MASK = np.array([[0, 7, 255], [3, 0, 0]], np.uint8)  # 7 is learnt as channel 3; 3 is an old class, so background
SALIENT = np.array([[9, 1, 1], [255, 0, 0]], np.uint8)


class TwoImages:
    """An image of the hand-made mask, and one that is enlarged a lot."""

    name = "two"

    def load(self, split, index):
        mask = np.kron(MASK, np.ones((40, 40), np.uint8)) if index else MASK
        return np.zeros((*mask.shape, 3), np.uint8), mask

    def image_id(self, split, index):
        return f"folder/{split}{index}"


@pytest.fixture
def task():
    lut = np.zeros(256, np.uint8)
    lut[7], lut[255] = 3, 255
    return Task(1, [[0, 3, 5], [7]], TwoImages(), np.array([0, 1]), np.array([0]), lut, lut)


@pytest.fixture
def maps(tmp_path):
    (tmp_path / "maps" / "folder").mkdir(parents=True)
    for index, (_, mask) in enumerate(TwoImages().load("train", index) for index in (0, 1)):
        salient = np.kron(SALIENT, np.ones([side // own for side, own in zip(mask.shape, MASK.shape, strict=True)]))
        Image.fromarray(salient.astype(np.uint8)).save(tmp_path / "maps" / "folder" / f"train{index}.png")
    return tmp_path / "maps"


def rows_of(task, folder, index=0):
    return with_rows(task, folder).train(lambda image, mask, seed: (image, mask))[index, 0][1]


def test_rows(task, maps):
    """Salient background, old classes among it, is unknown; new classes and void stay what they are."""
    assert rows_of(task, maps).tolist() == [[0, 4, 255], [0, 1, 1]]


def test_nothing_salient(task, maps):
    Image.fromarray(0 * SALIENT).save(maps / "folder" / "train0.png")
    assert rows_of(task, maps).tolist() == [[1, 4, 255], [1, 1, 1]]


def test_rows_are_cropped_as_labels_are(task, maps):
    """As if labels and map had been cropped together, at the same place."""
    view, (image, mask) = RandomCrop(32), TwoImages().load("train", 1)
    salient = np.array(Image.open(maps / "folder" / "train1.png"))
    rows = set()
    for seed in range(8):
        cropped = [torch.from_numpy(view(image, of, seed)[1]) for of in (task.train_lut[mask], salient)]
        found = with_rows(task, maps).train(view)[1, seed][1]
        assert torch.equal(found, with_unknown(*cropped))
        rows |= set(found.flatten().tolist())
    assert rows == {0, 1, 4, 255}


def test_void_is_not_unknown():
    labels = torch.tensor([[255, 0]], dtype=torch.uint8)
    assert with_unknown(labels, torch.ones(1, 2)).tolist() == [[255, 0]]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "I;16"])
def test_any_picture_is_a_map(mode, tmp_path):
    """Whatever is not black, however dark."""
    values = np.array([[0, 1], [0, 200]], np.uint8)
    picture = Image.fromarray(values.astype(np.uint16) * 256 if mode == "I;16" else values)
    if mode == "1":
        picture = Image.fromarray(values > 0)
    elif mode == "P":
        picture = Image.fromarray(values)
        picture.putpalette([0, 0, 0, 0, 0, 1] + [9] * 762)
    elif mode == "RGB":
        picture = Image.fromarray(values[..., None] * np.array([0, 0, 1], np.uint8))
    picture.save(tmp_path / "map.png")
    assert read_map(tmp_path / "map.png").tolist() == [[False, True], [False, True]]


def test_maps_that_fit(task, maps):
    require_maps(maps, [task, task], "--options.unknown")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda maps: maps.rename(maps.with_name("away")), "maps is no folder"),
        (lambda maps: (maps / "folder/train1.png").unlink(), "has no folder/train1.png; 1 of 2 training images"),
        (
            lambda maps: Image.new("L", (3, 1)).save(maps / "folder/train0.png"),
            "train0.png is 3x1 pixels but its image",
        ),
        (lambda maps: (maps / "folder/train0.png").write_bytes(b"no picture"), "train0.png cannot be read"),
    ],
)
def test_maps_that_do_not_fit(spoil, words, task, maps):
    spoil(maps)
    with pytest.raises(InputError, match=words) as error:
        require_maps(maps, [task], "--options.unknown")
    assert "--options.unknown none" in str(error.value) or "replace the file" in str(error.value)


def test_the_background_wins_where_its_score_exceeds_one():
    """In bfloat16 too, whose largest number below 1 is 0.996; a score of 0 is no infinity."""
    rows = torch.tensor([9.0, 9.0, 12.0, -3.0]).view(1, 4, 1, 1)
    assert known_or_unknown(rows.bfloat16()).argmax(1).item() == 0
    assert known_or_unknown(rows - torch.tensor([12.0, 12, 0, 0]).view(1, 4, 1, 1)).argmax(1).item() == 1
    assert known_or_unknown(torch.full((1, 3, 1, 1), -500.0)).isfinite().all()
