"""ADE20K and Cityscapes, on tiny copies in their real layout, and the protocols of the field on them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks import Stream
from tasks.datasets.ade20k import Ade20k
from tasks.datasets.cityscapes import Cityscapes
from tasks.errors import InputError
from tasks.folder import Folder, init

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory) -> Path:
    return runpy.run_path(str(DATA / "ade20k" / "data.py"))["write"](tmp_path_factory.mktemp("ade20k"))


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory) -> Path:
    return runpy.run_path(str(DATA / "cityscapes" / "data.py"))["write"](tmp_path_factory.mktemp("cityscapes"))


def test_ade20k_keeps_ids_and_names(ade20k):
    source = Ade20k(ade20k.parent)
    assert source.name == "ade20k" and len(source.class_names) == 151
    assert source.class_names[:5] == ["background", "wall", "building", "screen, door", "screen, silver"]
    assert source.presence("train").shape == (40, 256) and len(source.presence("test")) == 20
    np.testing.assert_array_equal(np.flatnonzero(source.presence("train")[1]), [0, *range(9, 17)])
    with Image.open(ade20k / "annotations/training/ADE_train_00000002.png") as mask:
        np.testing.assert_array_equal(source.load("train", 1)[1], np.array(mask))
    assert source.image_id("train", 1) == "ADE_train_00000002"


@pytest.mark.parametrize(("protocol", "tasks"), [("100-50", 2), ("100-10", 6), ("100-5", 11), ("50-50", 3)])
def test_ade20k_protocols(ade20k, protocol, tasks):
    """The steps of MiB and PLOP (tables 5 to 7 there): 100-50 has 2, 100-10 has 6, 100-5 has 11, 50-50 has 3."""
    stream = Stream.cut(Ade20k(ade20k), protocol)
    assert len(stream) == tasks and sum(map(len, stream.groups)) == 151
    assert stream.groups[0] == list(range(int(protocol.split("-")[0]) + 1))
    assert all(len(task.train_indices) for task in stream)


def test_cityscapes_label_ids_become_training_ids_plus_one(cityscapes):
    source = Cityscapes(cityscapes)
    assert len(source.class_names) == 20 and source.class_names[1] == "road" and source.class_names[19] == "bicycle"
    assert len(source.presence("train")) == 18 * 3 and len(source.presence("test")) == 3 * 2
    assert source.image_id("train", 0) == "aachen/aachen_000000_000019" and source.city("train", 4) == "bochum"
    mask = source.load("train", 1)[1]  # label ids 7 to 13
    with Image.open(cityscapes / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png") as picture:
        ids = np.array(picture)
    expected = {7: 1, 8: 2, 9: 255, 10: 255, 11: 3, 12: 4, 13: 5}
    np.testing.assert_array_equal(mask, np.vectorize(expected.get)(ids))
    assert not source.presence("train")[:, 0].any()
    assert len(Stream.cut(source, "14-5")) == 2


def test_init_knows_both(ade20k, cityscapes):
    for root, count in ((ade20k, 151), (cityscapes, 20)):
        init(root)
        by_name = (Ade20k if count == 151 else Cityscapes)(root)
        source = Folder(root)
        assert source.class_names == by_name.class_names
        np.testing.assert_array_equal(source.presence("test"), by_name.presence("test"))


@pytest.mark.parametrize(
    ("source", "says"), [(Ade20k, "holds no ADEChallengeData2016"), (Cityscapes, "lacks leftImg8bit/train")]
)
def test_missing_parts_are_named(tmp_path, source, says):
    with pytest.raises(InputError, match=says):
        source(tmp_path)


def test_damaged_table_is_named(tmp_path):
    root = runpy.run_path(str(DATA / "ade20k" / "data.py"))["write"](tmp_path)
    lines = (root / "objectInfo150.txt").read_text().splitlines()
    (root / "objectInfo150.txt").write_text("\n".join(lines[:100]))
    with pytest.raises(InputError, match="does not name the classes 1 to 150"):
        Ade20k(root)
