"""A data set as a folder: data.yaml, what `init` guesses, the source that reads it, and what `check` finds."""

import pickle
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tasks import Stream
from tasks.datasets.voc import CLASS_NAMES, voc_palette
from tasks.errors import InputError
from tasks.folder import Folder, check, init
from tasks.folder.check import report
from tasks.folder.description import as_yaml, describe
from tasks.folder.pairs import stratified
from tasks.folder.sheet import write_sheet
from tasks.palette import distinct_palette

SIZE = (12, 10)  # width, height
SPLITS = {"train": {"images": "images", "masks": "masks", "list": "train.txt"},
          "val": {"images": "images", "masks": "masks", "list": "val.txt"}}  # fmt: skip


def mask_of(*values: int) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), SIZE[::-1])


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path.name)))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def write_mask(path: Path, mask: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(path)


def write_pairs(root: Path, masks: dict[str, np.ndarray], images="images/{}.jpg", targets="masks/{}.png") -> Path:
    for name, mask in masks.items():
        write_image(root / images.format(name))
        write_mask(root / targets.format(name), mask)
    return root


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_yaml(root: Path, **content) -> Path:
    (root / "data.yaml").write_text(yaml.safe_dump({**SPLITS, **content}, allow_unicode=True))
    return root


def flat(root: Path) -> Path:
    """Six images of three classes, and no splits."""
    values = {"a": (0, 1), "b": (0, 2), "c": (0, 3), "d": (1, 2), "e": (3, 255), "f": (0, 3)}
    return write_pairs(root, {name: mask_of(*held) for name, held in values.items()})


def ready(root: Path, **content) -> Path:
    """The same with data.yaml and lists."""
    write_lines(flat(root) / "train.txt", *"abcd")
    write_lines(root / "val.txt", *"ef")
    return write_yaml(root, **{"names": ["hat", "bag", "scarf"], **content})


def held(source: Folder, split: str) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in source.presence(split)]


# the source ----------------------------------------------------------------------------------------------------------


def test_source_reads_what_data_yaml_says(tmp_path):
    source = Folder(ready(tmp_path, name="clothes"))
    assert source.name == "clothes" and source.class_names == ["background", "hat", "bag", "scarf"]
    assert held(source, "train") == [{0, 1}, {0, 2}, {0, 3}, {1, 2}] and held(source, "test") == [{3, 255}, {0, 3}]
    image, mask = source.load("test", 0)
    assert image.shape == (10, 12, 3) and mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, mask_of(3, 255))
    assert source.image_id("test", 0) == "e"
    tasks = list(Stream.cut(source, "2-1", order=["scarf", "hat", "bag"]))
    assert [len(task.train_indices) for task in tasks] == [3, 2]


def test_any_values_become_ids_from_one_on(tmp_path):
    write_pairs(tmp_path, {"a": mask_of(60, 7, 0), "b": mask_of(21, 99)})
    for name in ("train", "val"):
        write_lines(tmp_path / f"{name}.txt", "ab"[name == "val"])
    source = Folder(write_yaml(tmp_path, names={60: "z", 21: "a", 0: "road"}, void=[7, 99]))
    assert source.class_names == ["background", "road", "a", "z"]
    assert held(source, "train") == [{1, 3, 255}] and held(source, "test") == [{2, 255}]
    np.testing.assert_array_equal(source.load("train", 0)[1], mask_of(3, 255, 1))


def test_forty_classes_with_ids_21_to_60(tmp_path):
    values = list(range(21, 61))
    write_pairs(tmp_path, {f"{v}{c}": mask_of(0, v) for v in values for c in "ab"})
    write_lines(tmp_path / "train.txt", *(f"{v}a" for v in values))
    write_lines(tmp_path / "val.txt", *(f"{v}b" for v in values))
    source = Folder(write_yaml(tmp_path, names=[f"Größe {v}" for v in values], first_id=21))
    stream = Stream.cut(source, "20-5", order=[f"Größe {v}" for v in reversed(values)])
    assert len(stream) == 5 and [len(task.train_indices) for task in stream] == [20, 5, 5, 5, 5]
    assert held(source, "train")[0] == {0, 1} and held(source, "train")[-1] == {0, 40}


def test_254_classes_fit_and_255_do_not(tmp_path):
    names = {value: f"c{value}" for value in range(1, 255)}
    assert describe({"names": names, **SPLITS}, tmp_path / "data.yaml").ids.tolist() == list(range(256))
    full = {value: f"c{value}" for value in range(255)}
    with pytest.raises(InputError, match="255 classes are more than 254"):
        describe({"names": full, **SPLITS}, tmp_path / "data.yaml")


def test_list_and_mapping_mean_the_same(tmp_path):
    path = tmp_path / "data.yaml"
    plain = describe({"names": ["hat", "bag"], **SPLITS}, path)
    assert describe({"names": {1: "hat", 2: "bag"}, **SPLITS}, path) == plain
    assert describe({"names": ["background", "hat", "bag"], "first_id": 0, **SPLITS}, path) == plain
    assert describe({"names": {0: "Background", 1: "hat", 2: "bag"}, "void": 255, **SPLITS}, path) == plain
    assert plain.background == 0 and plain.void == [255] and plain.name == tmp_path.name
    assert describe(yaml.safe_load(as_yaml(plain)), path) == plain
    assert describe({"names": ["hat", "bag"], "first_id": 0, **SPLITS}, path).background is None
    assert describe({"names": {255: "crack"}, **SPLITS}, path).void == []


def test_names_with_umlauts_of_macos_are_the_same_names(tmp_path):
    source = Folder(ready(tmp_path, names=[unicodedata.normalize("NFD", "Größe "), "bag", "scarf"]))
    for form in ("NFC", "NFD"):
        classes = [unicodedata.normalize(form, "Größe"), "bag", "scarf"]
        assert Stream.cut(source, "2-1", classes=classes).groups[0] == [0, 1, 2]


def test_fingerprint_follows_masks_and_meaning(tmp_path):
    first = Folder(ready(tmp_path)).fingerprint()
    assert Folder(tmp_path).fingerprint() == first
    write_yaml(tmp_path, names=["bag", "hat", "scarf"])
    second = Folder(tmp_path).fingerprint()
    write_yaml(tmp_path, names=["hat", "bag", "scarf"])
    assert Folder(tmp_path).fingerprint() == first != second
    write_yaml(tmp_path, names=["hat", "bag", "scarf"], colours={"hat": [1, 2, 3]})  # by which masks may be read
    assert Folder(tmp_path).fingerprint() not in (first, second)
    write_mask(tmp_path / "masks/a.png", mask_of(0, 2))
    assert Folder(tmp_path).fingerprint() not in (first, second)


def test_pickle_leaves_the_scan_behind(tmp_path):
    source = Folder(ready(tmp_path))
    source.presence("train")
    again = pickle.loads(pickle.dumps(source))
    assert not again._scans
    np.testing.assert_array_equal(again.load("train", 1)[1], source.load("train", 1)[1])


def test_palette_is_of_data_yaml_or_far_from_voc(tmp_path):
    source = Folder(ready(tmp_path, colours={"bag": [1, 2, 3]}))
    own = distinct_palette()
    assert source.palette[2].tolist() == [1, 2, 3] and (source.palette[[1, 3]] == own[[1, 3]]).all()
    assert len(np.unique(own, axis=0)) == 256
    voc = {tuple(colour) for colour in voc_palette()[1:21].tolist()}
    assert not voc & {tuple(colour) for colour in own[1:].tolist()}
    assert not set(source.class_names[1:]) & set(CLASS_NAMES)


@pytest.mark.parametrize("line", ["e", "e.jpg", "images/e.jpg", "E:\\photos\\e.jpg", "\ufeffe"])
def test_lines_of_a_list(tmp_path, line):
    ready(tmp_path)
    (tmp_path / "val.txt").write_text(f"{line}\n\n  f\n", encoding="utf-8")
    source = Folder(tmp_path)
    assert [source.image_id("test", index) for index in range(2)] == ["e", "f"]


def test_names_of_files_may_hold_dots_blanks_and_folders(tmp_path):
    names = ["a/0 1", "b/0 1", "c.v2/x.y", "größe"]
    write_pairs(tmp_path, {name: mask_of(0, 1) for name in names}, "images/{}.JPG")
    write_image(tmp_path / "images/a/._0 1.JPG")
    write_lines(tmp_path / "train.txt", *names[:3])
    write_lines(tmp_path / "val.txt", names[3])
    source = Folder(write_yaml(tmp_path, names=["hat"]))
    assert [source.image_id("train", index) for index in range(3)] == names[:3]


def test_masks_in_colours_are_read_by_those_of_data_yaml(tmp_path):
    colours = {"hat": [200, 0, 0], "bag": [0, 200, 0], "scarf": [0, 0, 200], "void": [9, 9, 9]}
    ready(tmp_path, colours=colours)
    before = Folder(tmp_path)
    expected = [before.load("test", index)[1] for index in range(2)]
    table = np.zeros((256, 3), np.uint8)
    table[[1, 2, 3, 255]] = list(colours.values())
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(table[np.array(Image.open(path))]).save(path)
    after = Folder(tmp_path)
    np.testing.assert_array_equal(after.presence("train"), before.presence("train"))
    for index in range(2):
        np.testing.assert_array_equal(after.load("test", index)[1], expected[index])
    assert not check(tmp_path).problems


def test_init_of_cvat_masks_in_colours(tmp_path):
    write_lines(tmp_path / "labelmap.txt", "background:0,0,0::", "hat:250,50,83::", "ignore:9,9,9::", "bag:0,128,128::")
    pixels = np.array([[0, 0, 0], [250, 50, 83], [0, 128, 128], [9, 9, 9]], np.uint8)[mask_of(0, 1, 2, 3)]
    write_pairs(tmp_path, dict.fromkeys("abc", pixels), "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    assert init(tmp_path).description.names == {1: "hat", 3: "bag"}
    source = Folder(tmp_path)
    np.testing.assert_array_equal(source.load("test", 0)[1], mask_of(0, 1, 2, 255))
    assert source.palette[2].tolist() == [0, 128, 128] and not check(tmp_path).problems


# what init guesses ---------------------------------------------------------------------------------------------------


def test_init_without_splits_makes_a_lasting_one(tmp_path):
    guess = init(flat(tmp_path))
    assert guess.description.names == {1: "class 1", 2: "class 2", 3: "class 3"}
    lists = [(tmp_path / f"{name}.txt").read_text().split() for name in ("train", "val")]
    assert sorted([*lists[0], *lists[1]]) == list("abcdef") and lists[1]
    (tmp_path / "data.yaml").unlink()
    write_pairs(tmp_path, {"new": mask_of(1)})
    init(tmp_path)
    assert [(tmp_path / f"{name}.txt").read_text().split() for name in ("train", "val")] == lists


def test_stratified_split_gives_rare_classes_to_both():
    presence = {f"{n:03d}": {1} for n in range(90)} | {"x": {1, 2}, "y": {2}, "z": {3}, "v": set()}
    train, val = stratified(presence, 0)
    assert len(val) == pytest.approx(0.2 * len(presence), abs=2) and not set(train) & set(val)
    assert len({"x", "y"} & set(val)) == 1 and "z" in train
    assert stratified(presence, 0) == (train, val) != stratified(presence, 1)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{s}/{n}.jpg", "masks/{s}/{n}.png"),
        ("{s}/images/{n}.png", "{s}/labels/{n}.png"),
        ("{s}_images/{n}.jpg", "{s}_masks/{n}.png"),
        ("{s}/{n}.png", "{s}annot/{n}.png"),
        ("{s}/img/{n}.jpeg", "{s}/mask/{n}_mask.png"),
    ],
)
def test_layouts_with_splits(tmp_path, images, masks):
    for split, names in (("train", "abc"), ("val", "de")):
        write_pairs(tmp_path, {n: mask_of(0, 1) for n in names}, images.replace("{n}", "{}").replace("{s}", split),
                    masks.replace("{n}", "{}").replace("{s}", split))  # fmt: skip
    init(tmp_path)
    source = Folder(tmp_path)
    assert [len(source.presence(split)) for split in ("train", "test")] == [3, 2]
    assert not list(tmp_path.glob("*.txt"))


def test_layout_of_voc_with_label_map(tmp_path):
    write_pairs(tmp_path, {n: mask_of(0, 2) for n in "abc"}, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    write_lines(tmp_path / "ImageSets/Segmentation/train.txt", "a", "b")
    write_lines(tmp_path / "ImageSets/Segmentation/val.txt", "c")
    write_lines(
        tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions", "background:0,0,0::", "hat:9,8,7::", "a:b:1,2,3::"
    )
    source = Folder(init(tmp_path) and tmp_path)
    assert source.class_names == ["background", "hat", "a:b"] and source.palette[2].tolist() == [1, 2, 3]
    assert held(source, "train") == [{0, 2}] * 2


def test_layout_of_roboflow(tmp_path):
    for split, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
        write_pairs(
            tmp_path,
            {n: mask_of(0, 1, 2) for n in names},
            f"{split}/{{}}_jpg.rf.0a.jpg",
            f"{split}/{{}}_jpg.rf.0a_mask.png",
        )
        write_lines(tmp_path / split / "_classes.csv", "Pixel Value, Class", "0, background", "1, hat", "2, bag, old")
        write_lines(tmp_path / split / "_classes.csv", "Pixel Value, Class", "0, background", "1, hat", "2, bag")
    init(tmp_path)
    source = Folder(tmp_path)
    assert source.class_names == ["background", "hat", "bag"] and len(source.presence("test")) == 1
    assert source.image_id("train", 0) == "a_jpg.rf.0a"


def test_masks_of_0_and_255_are_one_class(tmp_path):
    guess = init(write_pairs(tmp_path, {name: mask_of(0, 255) for name in "abc"}))
    assert guess.description.names == {255: "object"} and guess.description.void == []
    assert held(Folder(tmp_path), "test") == [{0, 1}]


@pytest.mark.parametrize(
    ("lines", "values", "names"),
    [
        (["hat", "bag"], (0, 1, 2), {1: "hat", 2: "bag"}),
        (["hat", "bag"], (0, 2), {1: "hat", 2: "bag"}),
        (["hat", "bag"], (0, 1), {0: "hat", 1: "bag"}),  # as many values as names, from 0 on
        (["background", "hat", "bag"], (0, 1), {1: "hat", 2: "bag"}),
        (["0 background", "1 hat", "7: bag"], (0, 1), {1: "hat", 7: "bag"}),
        (["__ignore__", "_background_", "hat"], (0, 1), {1: "hat"}),
        (["hat", "void", "bag"], (0, 1, 3), {1: "hat", 3: "bag"}),
    ],
)
def test_names_of_classes_txt(tmp_path, lines, values, names):
    write_pairs(tmp_path, {name: mask_of(*values) for name in "abc"})
    write_lines(tmp_path / "classes.txt", *lines)
    assert init(tmp_path).description.names == names
    Folder(tmp_path).presence("train")


def test_names_of_a_windows_shell(tmp_path):
    write_pairs(tmp_path, {name: mask_of(0, 1, 2) for name in "abc"})
    (tmp_path / "classes.txt").write_text("größe\r\nbag\r\n", encoding="utf-16")
    assert init(tmp_path).description.names == {1: "größe", 2: "bag"}


def test_images_without_masks_are_left_out(tmp_path):
    write_image(flat(tmp_path) / "images/lonely.jpg")
    remarks = init(tmp_path).remarks
    assert "1 images of images have no mask" in remarks[0]
    source = Folder(tmp_path)
    assert len(source.presence("train")) + len(source.presence("test")) == 6
    assert "1 images in images have no mask" in report(check(tmp_path))


# what check finds ----------------------------------------------------------------------------------------------------


def test_check_counts_images_and_pixels(tmp_path):
    result = check(ready(tmp_path))
    assert result.images("train")[:4].tolist() == [3, 2, 2, 1] and result.pixels("train").sum() == 4 * 120
    assert result.pixels("val")[[3, 255]].tolist() == [120, 60] and not result.problems
    text = report(result)
    assert "4 train images, 2 val images" in text and "all images are 12x10 pixels" in text
    assert "2 classes are in no val image: hat, bag" in text


def find_nameless(root):
    write_mask(root / "masks/a.png", mask_of(0, 9))


def find_size(root):
    write_mask(root / "masks/a.png", mask_of(0, 1)[:, :9])


def find_broken(root):
    (root / "images/a.jpg").write_bytes(b"")


def find_shared(root):
    write_lines(root / "val.txt", "a", "f")


def find_copy(root):
    (root / "images/e.jpg").write_bytes((root / "images/a.jpg").read_bytes())


def find_void(root):
    write_mask(root / "masks/f.png", mask_of(255))


def find_torn_palette(root):
    palette = distinct_palette()
    for name in "ab":
        write_mask(root / f"masks/{name}.png", mask_of(0, 1), palette if name == "a" else palette[[0, 2, 1]])


def find_wrong_palette(root):
    write_mask(root / "masks/a.png", mask_of(0, 1), np.array([[0, 0, 0], [9, 9, 9]], np.uint8))
    write_yaml(root, names=["hat", "bag", "scarf"], colours={"bag": [9, 9, 9]})


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (find_nameless, "problem", "value 9 has no name in data.yaml but occurs in 1 masks .*a.png"),
        (find_size, "problem", "a.png is 9x10 pixels but its image .*a.jpg is 12x10"),
        (find_broken, "problem", "a.jpg cannot be read"),
        (find_shared, "problem", "1 images are in both splits: .*a.jpg"),
        (find_copy, "note", "1 val images are copies of training images: e = a"),
        (find_void, "note", "75 % of the val pixels are void"),
        (find_torn_palette, "note", "value 1 has 2 colours in the palettes"),
        (find_wrong_palette, "problem", "index 1 has the colour of 'bag', whose id is 2"),
    ],
)
def test_check_names_what_does_not_fit(tmp_path, damage, kind, says):
    assert not re.search(says, report(check(ready(tmp_path))))
    damage(tmp_path)
    found = report(check(tmp_path))
    assert re.search(f"^{kind}: .*{says}", found, re.MULTILINE), found


def test_contact_sheet_has_a_cell_for_every_class_that_occurs(tmp_path):
    write_sheet(check(ready(tmp_path, names=["Größe", "日本", "scarf", "unused"])), tmp_path / "classes.png")
    with Image.open(tmp_path / "classes.png") as sheet:
        assert sheet.size == (3 * 180, 216) and len(sheet.getcolors(100000)) > 50


def test_contact_sheet_of_masks_in_colours(tmp_path):
    colours = {"hat": [255, 0, 0], "bag": [0, 255, 0], "scarf": [0, 0, 255], "void": [9, 9, 9]}
    of_value = {0: [0, 0, 0], 255: colours["void"], **dict(enumerate(list(colours.values())[:3], 1))}
    write_sheet(check(ready(tmp_path, colours=colours)), tmp_path / "values.png")
    for path in (tmp_path / "masks").iterdir():
        values = np.array(Image.open(path))
        Image.fromarray(np.array([[of_value[v] for v in row] for row in values.tolist()], np.uint8)).save(path)
    write_sheet(check(tmp_path), tmp_path / "colours.png")
    assert (tmp_path / "values.png").read_bytes() == (tmp_path / "colours.png").read_bytes()


# bad input -----------------------------------------------------------------------------------------------------------


def no_folder(root):
    return root / "nowhere"


def no_yaml(root):
    return flat(root)


def yaml_of_yolo(root):
    return write_yaml(root, nc=2, names=["a", "b"])


def yaml_broken(root):
    (root / "data.yaml").write_text("names: [a\n")
    return root


def yaml_of_words(root):
    (root / "data.yaml").write_text("just words\n")
    return root


def unknown_key(root):
    return ready(root, naems=["a"])


def no_names(root):
    return ready(root, names=[])


def names_twice(root):
    return ready(root, names=["hat", "bag", "hat "])


def name_yes(root):
    (ready(root) / "data.yaml").write_text(yaml.safe_dump({**SPLITS, "names": ["hat", "X"]}).replace("- X", "- no"))
    return root


def name_number(root):
    return ready(root, names=["hat", "7", "scarf"])


def name_background(root):
    return ready(root, names=["hat", "Background", "scarf"], first_id=1, background=0)


def value_too_large(root):
    return ready(root, names={300: "hat"})


def value_means_two_things(root):
    return ready(root, void=[2, 255])


def first_id_with_mapping(root):
    return ready(root, names={1: "hat"}, first_id=3)


def colour_of_two(root):
    return ready(root, colours={"hat": [1, 2]})


def colour_of_no_class(root):
    return ready(root, colours={"glove": [1, 2, 3]})


def split_missing(root):
    (ready(root) / "data.yaml").write_text("names: [a, b, c]\ntrain: {images: images, masks: masks}\n")
    return root


def folder_missing(root):
    return ready(root, val={"images": "photos", "masks": "masks"})


def list_missing(root):
    (ready(root) / "val.txt").unlink()
    return root


def list_empty(root):
    write_lines(ready(root) / "val.txt", "", " ")
    return root


def list_twice(root):
    write_lines(ready(root) / "val.txt", "e", "e")
    return root


def list_unknown(root):
    write_lines(ready(root) / "val.txt", "zz")
    return root


def mask_missing(root):
    (ready(root) / "masks/a.png").unlink()
    return root


def masks_as_jpeg(root):
    for path in sorted((ready(root) / "masks").iterdir()):
        path.rename(path.with_suffix(".jpg"))
    return root


def same_name_two_endings(root):
    write_image(ready(root) / "images/a.png")
    return root


def shared_image(root):
    write_lines(ready(root) / "val.txt", "a", "f")
    return root


def other_size(root):
    write_mask(ready(root) / "masks/a.png", mask_of(0, 1)[:, :9])
    return root


def nameless_value(root):
    return ready(root, names=["hat", "bag"])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_folder, "nowhere is not a folder"),
        (no_yaml, "has no data.yaml: write one with `css data init"),
        (yaml_of_yolo, "is of YOLO"),
        (yaml_broken, "data.yaml cannot be read"),
        (yaml_of_words, "is no mapping"),
        (unknown_key, "naems: Extra inputs"),
        (no_names, "names holds no class"),
        (names_twice, "two classes are named 'hat'"),
        (name_yes, "False is no text: put class names in quotes"),
        (name_number, "'7' cannot be the name of a class"),
        (name_background, "'Background' cannot be the name of a class"),
        (value_too_large, "mask value 300 is not in 0 to 255"),
        (value_means_two_things, "mask value 2 means two things"),
        (first_id_with_mapping, "first_id goes with a list"),
        (colour_of_two, "colour .1, 2. of hat is not three numbers"),
        (colour_of_no_class, "colours name glove, which is no class"),
        (split_missing, "val: Field required"),
        (folder_missing, "photos is not a folder"),
        (list_missing, "val.txt cannot be read"),
        (list_empty, "val.txt is empty"),
        (list_twice, "names e more than once"),
        (list_unknown, "names zz, but there is no such image"),
        (mask_missing, "a.jpg has no mask named like it"),
        (masks_as_jpeg, "has no mask named like it .*JPEG"),
        (same_name_two_endings, "a.jpg and a.png have the same name"),
        (shared_image, "1 of 2 validation images are training images as well"),
        (other_size, "9x10 pixels but its image"),
        (nameless_value, "holds the value.s. 3"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, make, says):
    with pytest.raises(InputError, match=says) as caught:
        source = Folder(make(tmp_path))
        source.presence("train")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def init_again(root):
    return ready(root)


def init_nothing(root):
    return root


def init_images_only(root):
    write_image(root / "images/a.jpg")
    return root


def init_one_pair(root):
    return write_pairs(root, {"a": mask_of(0, 1)})


def init_background_only(root):
    return write_pairs(root, {name: mask_of(0) for name in "ab"})


def init_rgb(root):
    write_pairs(root, {name: np.zeros((*SIZE[::-1], 3), np.uint8) for name in "ab"})
    return root


def init_list_in_the_way(root):
    write_lines(flat(root) / "train.txt", "a")
    return root


def init_names_twice(root):
    write_lines(flat(root) / "classes.txt", "hat", "hat", "bag")
    return root


def init_photographs(root):
    noise = np.arange(120, dtype=np.uint8).reshape(SIZE[::-1])
    return write_pairs(root, {"a": noise, "b": noise + 120, "c": noise + 130})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_folder, "nowhere is not a folder"),
        (init_again, "data.yaml is there already"),
        (init_nothing, "holds no images with masks"),
        (init_images_only, "holds no images with masks"),
        (init_one_pair, "1 image with a mask cannot be divided"),
        (init_background_only, "nothing but background"),
        (init_rgb, "mode RGB"),
        (init_list_in_the_way, "train.txt would be overwritten"),
        (init_names_twice, "two classes are named 'hat'"),
    ],
)
def test_init_refuses_in_one_sentence_and_writes_nothing(tmp_path, make, says):
    folder = make(tmp_path)
    before = sorted(tmp_path.rglob("*.*"))
    with pytest.raises(InputError, match=says) as caught:
        init(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert sorted(tmp_path.rglob("*.*")) == before
