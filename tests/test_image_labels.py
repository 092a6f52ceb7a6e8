"""Data sets with one label per image: CIFAR-100, TinyImageNet, single shapes, and streams of "K-split"."""

import hashlib
import pickle
import shutil
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from tasks import InputError, Stream, split_evenly
from tasks.datasets import cifar100, tiny_imagenet
from tasks.datasets.cifar100 import RECORD, Cifar100
from tasks.datasets.single_shapes import SingleShapes
from tasks.datasets.tiny_imagenet import TinyImageNet
from tasks.views import PaddedCrop, Resized

# ---------------------------------------------------------------- protocol


def test_equal_tasks():
    assert split_evenly("3-split", 6) == [[1, 2], [3, 4], [5, 6]]
    assert split_evenly("2-split", 4, [4, 1, 3, 2]) == [[4, 1], [3, 2]]
    assert [len(group) for group in split_evenly("25-split", 200)] == [8] * 25


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ("4-split", "does not divide 6 classes.*2-split, 3-split"),
        ("6-split", "does not divide"),  # tasks of one class
        ("1-split", "does not divide"),
        ("15-1", "not of the form K-split"),
    ],
)
def test_splits_that_do_not_fit(protocol, says):
    with pytest.raises(InputError, match=says):
        split_evenly(protocol, 6)


def test_a_stream_of_labels():
    source = SingleShapes(size=32, train_images=40, test_images=20)
    stream = Stream.cut(source, "5-split", split=split_evenly)
    seen = set()
    for task in stream:
        images = task.train(PaddedCrop(32))
        labels = {images[position, 0][1].item() for position in range(len(images))}
        assert labels == set(range(4 * task.index, 4 * task.index + 4))  # channels of the new classes
        assert len(images) == 8 and not seen & set(task.train_indices.tolist())
        seen |= set(task.train_indices.tolist())
        assert len(task.test_indices) == 4 * (task.index + 1)  # of all classes so far
    image, label = images[0, 0]
    assert image.shape == (3, 32, 32) and label.shape == (1, 1)


# ---------------------------------------------------------------- views


def test_padded_crops_move_and_flip_but_keep_the_label():
    image = np.random.default_rng(0).integers(1, 255, (32, 32, 3), np.uint8)
    mask = np.full((1, 1), 7, np.uint8)
    views = [PaddedCrop(32)(image, mask, seed) for seed in range(30)]
    assert all(view.shape == (32, 32, 3) and label == 7 for view, label in views)
    assert any((view[0] == 0).all() or (view[-1] == 0).all() for view, _ in views)  # black rows of the padding
    again = PaddedCrop(32)(image, mask, 3)[0]
    assert np.array_equal(again, views[3][0]) and not np.array_equal(views[3][0], views[4][0])
    assert Resized(32)(np.zeros((64, 64, 3), np.uint8), mask)[0].shape == (32, 32, 3)
    assert np.array_equal(Resized(32)(image, mask)[0], image)


# ---------------------------------------------------------------- CIFAR-100


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """The official layout with 6 training and 4 test images of 5 classes."""
    monkeypatch.setattr(cifar100, "COUNTS", {"train": 6, "test": 4})
    folder = tmp_path / "data" / cifar100.FOLDER
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, file in cifar100.FILES.items():
        records = generator.integers(0, 255, (cifar100.COUNTS[split], RECORD), np.uint8)
        records[:, 1] = np.arange(len(records)) % 5
        records.tofile(folder / file)
    (folder / cifar100.NAMES).write_text("apple\nbear\ncan\ndoor\neel\n")
    return tmp_path / "data"


def test_cifar_planes_and_labels(cifar):
    source = Cifar100(cifar)
    raw = np.fromfile(cifar / cifar100.FOLDER / "train.bin", np.uint8).reshape(6, RECORD)
    image, label = source.load("train", 5)
    assert label.tolist() == [[1]] and source.class_names == ["", "apple", "bear", "can", "door", "eel"]
    assert np.array_equal(image[:, :, 0].ravel(), raw[5, 2 : 2 + 1024])  # the red plane comes first, row by row
    assert np.array_equal(image[:, :, 2].ravel(), raw[5, 2 + 2048 :])
    assert source.presence("test")[3].nonzero()[0].tolist() == [4]
    assert Cifar100(cifar / cifar100.FOLDER).fingerprint() == source.fingerprint()


def test_cifar_goes_to_a_worker(cifar):
    source = Cifar100(cifar)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.load("test", 2)[0], source.load("test", 2)[0])


def test_cifar_absent_truncated_or_wrong(cifar, tmp_path):
    with pytest.raises(InputError, match=r"holds no cifar-100-binary.*css prepare cifar100"):
        Cifar100(tmp_path / "elsewhere")
    file = cifar / cifar100.FOLDER / "test.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"test.bin has .* bytes instead of"):
        Cifar100(cifar)
    file.write_bytes(content[:1] + b"\x09" + content[2:])
    with pytest.raises(InputError, match=r"test.bin holds the label 9, but there are 5 classes"):
        Cifar100(cifar)


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_prepare_cifar(cifar, tmp_path, server, capsys):
    archive = server.folder / "cifar-100-binary.tar.gz"
    url = f"{server.url}/{archive.name}"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar / cifar100.FOLDER, cifar100.FOLDER)
    target = tmp_path / "fresh"
    with pytest.raises(InputError, match="damaged"):
        cifar100.prepare(target, url, "0" * 32)
    shutil.rmtree(target)
    cifar100.prepare(target, url, md5_of(archive))
    assert Cifar100(target).fingerprint() == Cifar100(cifar).fingerprint()
    server.gets.clear()
    cifar100.prepare(target, url, "0" * 32)
    assert not server.gets and "nothing to do" in capsys.readouterr().out


# ---------------------------------------------------------------- TinyImageNet


@pytest.fixture
def tiny(tmp_path):
    """The official layout with 3 classes, 2 training images and 1 test image of each."""
    root = tmp_path / "data" / tiny_imagenet.FOLDER
    wnids = ["n03", "n01", "n02"]
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("n01\tcrane, a bird\nn02\tcrane, a machine\nn03\tfox\nn04\tunused\n")
    lines = []
    for number, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(folder / f"{wnid}_{index}.JPEG"), np.full((64, 64, 3), 80 * number, np.uint8))
        cv2.imwrite(str(root / "val" / "images" / f"val_{number}.JPEG"), np.full((64, 64, 3), 80 * number, np.uint8))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t9\t9")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return tmp_path / "data"


def test_tiny_imagenet_in_order_of_the_ids(tiny):
    source = TinyImageNet(tiny)
    assert source.class_names == ["", "crane (n01)", "crane (n02)", "fox"]
    assert source.labels["train"].tolist() == [1, 1, 2, 2, 3, 3] and source.labels["test"].tolist() == [3, 1, 2]
    image, label = source.load("test", 1)  # val_1 is n01, painted 80
    assert label.tolist() == [[1]] and image.shape == (64, 64, 3) and abs(int(image.mean()) - 80) < 3
    assert source.image_id("train", 0) == "n01_0"
    print_before = source.fingerprint()
    (tiny / tiny_imagenet.FOLDER / "train" / "n01" / "images" / "n01_1.JPEG").unlink()
    assert TinyImageNet(tiny).fingerprint() != print_before


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (
            lambda root: shutil.rmtree(root / "val"),
            "lacks val/val_annotations.txt, val/images.*css prepare tiny-imagenet",
        ),
        (lambda root: shutil.rmtree(root / "train" / "n02"), "has no image of class n02"),
        (lambda root: (root / "val" / "images" / "val_0.JPEG").unlink(), "val_0.JPEG is missing"),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\n"),
            "line 1 of .*annotations",
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\n"),
            "has no image of class n02",
        ),
    ],
)
def test_tiny_imagenet_incomplete(tiny, breakage, says):
    breakage(tiny / tiny_imagenet.FOLDER)
    with pytest.raises(InputError, match=says):
        TinyImageNet(tiny)


def test_prepare_tiny_imagenet(tiny, tmp_path, server):
    archive = server.folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in sorted(tiny.rglob("*")):
            zipped.write(file, file.relative_to(tiny))
    tiny_imagenet.prepare(tmp_path / "fresh", f"{server.url}/{archive.name}", md5_of(archive))
    assert TinyImageNet(tmp_path / "fresh").class_names == TinyImageNet(tiny).class_names


# ---------------------------------------------------------------- single shapes


def test_single_shapes_show_their_class():
    source = SingleShapes(size=32, train_images=40, test_images=20)
    assert source.labels["train"].tolist() == [*range(1, 21)] * 2
    assert source.class_names[0] == "" and len(set(source.class_names)) == 21
    assert np.array_equal(source.image("train", 3), SingleShapes(32, 40, 20).image("train", 3))
    assert not np.array_equal(source.image("train", 3), source.image("train", 23))  # the same class, another image
    prints = {SingleShapes(*values).fingerprint() for values in [(32, 40, 20, 0), (32, 40, 20, 1), (32, 60, 20, 0)]}
    assert len(prints) == 3
    with pytest.raises(ValueError, match="read-only"):
        source.image("train", 0)[:] = 0
