"""VOC layout, verification of every pair, and the cached class-presence index, on small files of the same format."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks import reading as presence_module
from tasks.datasets.voc import Voc, voc_palette
from tasks.errors import InputError
from tasks.reading import scan

TRAIN = {"2007_000032": {0, 1, 15, 255}, "2007_000039": {0, 20}, "2008_000001": {3}}
TEST = {"2007_000033": {0, 8}, "2007_000042": {12, 255}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "css-presence"


@pytest.fixture
def root(tmp_path) -> Path:
    return write_voc(tmp_path / "data")


def write_voc(root: Path) -> Path:
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, (name, values) in enumerate({**TRAIN, **TEST}.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        write_mask(root / "SegmentationClassAug" / f"{name}.png", mask_of(values))
    write_list(root, "train_aug", TRAIN)
    write_list(root, "val", TEST)
    return root


def mask_of(values: set[int]) -> np.ndarray:
    return np.resize(np.array(sorted(values), dtype=np.uint8), (30, 40))


def write_mask(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    image.save(path)


def write_list(root: Path, name: str, lines) -> None:
    (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def values_in(presence: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in presence]


def test_presence_load_and_names(root):
    source = Voc(root)
    assert values_in(source.presence("train")) == list(TRAIN.values())
    assert values_in(source.presence("test")) == list(TEST.values())
    assert source.presence("train").dtype == bool and source.presence("train").shape == (3, 256)
    image, mask = source.load("train", 0)
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(mask, mask_of(TRAIN["2007_000032"]))  # indices, not palette colours
    assert mask.dtype == np.uint8 and mask.flags.writeable
    assert source.image_id("test", 1) == "2007_000042"
    assert len(source.class_names) == 21 and source.class_names[0] == "background"
    assert [source.class_names[i] for i in (8, 12, 15, 20)] == ["cat", "dog", "person", "tvmonitor"]


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2012", "VOC2012"])
def test_root_above_the_layout(tmp_path, below):
    write_voc(tmp_path / "outer" / below)
    assert len(Voc(tmp_path / "outer").presence("train")) == 3


def test_lists_of_path_pairs(root):
    plain = values_in(Voc(root).presence("train"))
    write_list(root, "train_aug", [f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png" for i in TRAIN])
    source = Voc(root)
    assert values_in(source.presence("train")) == plain
    assert source.image_id("train", 0) == "2007_000032"


def test_grey_image_and_grey_mask_are_read(root):
    Image.new("L", (40, 30), 7).save(root / "JPEGImages" / "2008_000001.jpg")
    Image.fromarray(mask_of({2, 255})).save(root / "SegmentationClassAug" / "2008_000001.png")
    source = Voc(root)
    assert values_in(source.presence("train"))[2] == {2, 255}
    assert source.load("train", 2)[0].shape == (30, 40, 3)


def test_pickle_leaves_the_scan_behind(root):
    source = Voc(root)
    before = len(pickle.dumps(source))
    source.presence("train")
    data = pickle.dumps(source)
    assert len(data) == before
    np.testing.assert_array_equal(pickle.loads(data).load("test", 0)[0], source.load("test", 0)[0])


def test_palette_has_the_published_colours():
    palette = voc_palette()
    assert palette.dtype == np.uint8 and palette.shape == (256, 3)
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for class_id, colour in published.items():
        assert tuple(palette[class_id]) == colour
    assert len(np.unique(palette, axis=0)) == 256


def break_image_missing(root):
    (root / "JPEGImages/2007_000039.jpg").unlink()


def break_mask_missing(root):
    (root / "SegmentationClassAug/2007_000039.png").unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_image_truncated(root):
    cut(root / "JPEGImages/2007_000039.jpg")


def break_mask_truncated(root):
    noise = np.random.default_rng(0).integers(0, 21, (30, 40), dtype=np.uint8)
    write_mask(root / "SegmentationClassAug/2007_000039.png", noise)
    cut(root / "SegmentationClassAug/2007_000039.png")


def break_image_no_image(root):
    (root / "JPEGImages/2007_000039.jpg").write_text("<html>not found</html>")


def break_mask_empty(root):
    (root / "SegmentationClassAug/2007_000039.png").write_bytes(b"")


def break_sizes(root):
    write_mask(root / "SegmentationClassAug/2007_000039.png", mask_of({0, 20})[:, :39])


def break_mask_rgb(root):
    path = root / "SegmentationClassAug/2007_000039.png"
    mask = Image.open(path).convert("RGB")
    mask.putpixel((3, 2), (1, 2, 3))
    mask.save(path)


def break_values(root):
    write_mask(root / "SegmentationClassAug/2007_000039.png", mask_of({0, 21, 254}))


@pytest.mark.parametrize(
    ("damage", "file", "says"),
    [
        (break_image_missing, "JPEGImages/2007_000039.jpg", "missing"),
        (break_mask_missing, "SegmentationClassAug/2007_000039.png", "missing"),
        (break_image_truncated, "JPEGImages/2007_000039.jpg", "cannot be read"),
        (break_mask_truncated, "SegmentationClassAug/2007_000039.png", "cannot be read"),
        (break_image_no_image, "JPEGImages/2007_000039.jpg", "cannot be read"),
        (break_mask_empty, "SegmentationClassAug/2007_000039.png", "cannot be read"),
        (break_sizes, "SegmentationClassAug/2007_000039.png", "39x30 pixels but its image"),
        (break_mask_rgb, "SegmentationClassAug/2007_000039.png", "#010203 at x 3, y 2"),
        (break_values, "SegmentationClassAug/2007_000039.png", "21, 254"),
    ],
)
def test_damaged_pair_is_named(root, cache, damage, file, says):
    Voc(root).presence("train")  # a cached index of the sound data must not hide the damage
    damage(root)
    with pytest.raises(InputError) as caught:
        Voc(root).presence("train")
    assert str(root / file) in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(list(cache.iterdir())) == 1  # nothing was stored for the damaged data


def test_load_names_a_file_that_broke_after_the_scan(root):
    source = Voc(root)
    break_image_truncated(root)
    with pytest.raises(InputError, match=r"2007_000039.jpg"):
        source.load("train", 1)


@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClassAug", "train_aug.txt", "val.txt"])
def test_missing_part_is_named(root, part):
    path = next(root.rglob(part))
    path.rename(root / "elsewhere")
    with pytest.raises(InputError) as caught:
        Voc(root)
    assert f"lacks {path.relative_to(root)}:" in str(caught.value)
    assert f"css prepare voc --data-root {root}" in str(caught.value)


def test_absent_and_empty_root(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder.*css prepare voc"):
        Voc(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"lacks JPEGImages.*css prepare voc"):
        Voc(tmp_path)


@pytest.mark.parametrize(
    ("lines", "says"),
    [([], "is empty"), (["a b c"], "line 1 of image list"), (["2007_000032", "", "2007_000032"], "more than once")],
)
def test_malformed_list(root, lines, says):
    write_list(root, "train_aug", lines)
    with pytest.raises(InputError, match=says) as caught:
        Voc(root)
    assert "train_aug.txt" in str(caught.value)


def test_binary_list(root):
    (root / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"val.txt cannot be read"):
        Voc(root)


def test_second_scan_decodes_nothing(root, monkeypatch):
    before, fingerprint = Voc(root).presence("train"), Voc(root).fingerprint()
    monkeypatch.setattr(presence_module, "_decode", lambda *_: pytest.fail("decoded although cached"))
    np.testing.assert_array_equal(Voc(root).presence("train"), before)
    assert Voc(root).fingerprint() == fingerprint


def test_same_names_with_other_content_never_share_an_entry(root, cache):
    """Same folder, same lists, same mask size in bytes and same time stamps: only the content tells."""
    mask = root / "SegmentationClassAug/2007_000039.png"
    stamp = mask.stat()
    before = Voc(root)
    assert values_in(before.presence("train"))[1] == {0, 20}
    first = before.fingerprint()
    write_mask(mask, mask_of({0, 19}))
    assert mask.stat().st_size == stamp.st_size  # else the test proves less
    os.utime(mask, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = Voc(root)
    assert values_in(after.presence("train"))[1] == {0, 19}
    assert after.fingerprint() != first
    assert len(list(cache.iterdir())) == 3  # train twice, test once


def test_list_order_is_part_of_the_key(root):
    first = Voc(root).fingerprint()
    write_list(root, "train_aug", reversed(TRAIN))
    assert values_in(Voc(root).presence("train")) == list(TRAIN.values())[::-1]
    assert Voc(root).fingerprint() != first


def test_valid_values_are_part_of_the_key(root):
    items = [(root / f"JPEGImages/{i}.jpg", root / f"SegmentationClassAug/{i}.png") for i in TRAIN]
    _, key = scan(items, [*range(21), 255], workers=1)
    with pytest.raises(InputError, match=r"2007_000039.png holds the value"):
        scan(items, [*range(20), 255], workers=1)
    assert scan(items, [*range(21), 255], workers=4)[1] == key


@pytest.mark.parametrize("keep", [0, 20, 300, -1])
def test_truncated_cache_is_rebuilt(root, cache, keep):
    before = Voc(root).presence("train")
    (entry,) = cache.iterdir()
    sound = entry.read_bytes()
    entry.write_bytes(sound[:keep])
    np.testing.assert_array_equal(Voc(root).presence("train"), before)
    assert entry.read_bytes() == sound


def test_cache_with_flipped_values_is_rebuilt(root, cache):
    before = Voc(root).presence("train")
    (entry,) = cache.iterdir()
    sound = bytearray(entry.read_bytes())
    sound[-100] ^= 1
    entry.write_bytes(sound)
    np.testing.assert_array_equal(Voc(root).presence("train"), before)


def test_cache_that_cannot_be_written_is_no_error(root, cache):
    cache.parent.write_text("a file where the folder should be")
    assert values_in(Voc(root).presence("train")) == list(TRAIN.values())


def test_failed_write_leaves_no_temporary_file(root, cache, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(presence_module.os, "replace", fail)
    assert values_in(Voc(root).presence("train")) == list(TRAIN.values())
    assert list(cache.iterdir()) == []
