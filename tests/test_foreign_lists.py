"""Image lists as editors, shells and other programs write them, and what a sentence says of data that do not fit."""

import numpy as np
import pytest
from PIL import Image
from small_voc import css, run_arguments

from tasks import Stream
from tasks.datasets.voc import IMAGES, LISTS, MASKS, Voc
from tasks.errors import InputError

NAMES = {"train": ["one", "two", "three"], "test": ["four"]}


@pytest.fixture
def root(tmp_path):
    """Four pairs in VOC's layout; the grey value of image k is k, and so is the first pixel of its mask."""
    folder = tmp_path / "voc"
    for part in (IMAGES, MASKS, "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for place, name in enumerate(sum(NAMES.values(), []), 1):
        write_pair(folder, name, place)
    for split, names in NAMES.items():
        write_list(folder, "\n".join(names), split)
    return folder


def write_pair(root, name: str, value: int, image_ending: str = ".jpg", mask_ending: str = ".png") -> None:
    for part, ending in ((IMAGES, image_ending), (MASKS, mask_ending)):
        path = root / part / f"{name}{ending}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)


def write_list(root, text: str, split: str = "train", encoding: str = "utf-8") -> None:
    (root / LISTS[split]).write_bytes(text.encode(encoding))


def values(root) -> list[int]:
    """Of image and mask of every training pair; the two must agree."""
    source = Voc(root)
    pairs = [source.load("train", index) for index in range(len(source.presence("train")))]
    assert [int(image[0, 0, 0]) for image, _ in pairs] == [int(mask[0, 0]) for _, mask in pairs]
    return [int(mask[0, 0]) for _, mask in pairs]


def names(root) -> list[str]:
    source = Voc(root)
    return [source.image_id("train", index) for index in range(len(source.presence("train")))]


def refusal(root) -> str:
    with pytest.raises(InputError) as caught:
        Voc(root).presence("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_plain_list(root):
    assert values(root) == [1, 2, 3] and names(root) == NAMES["train"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends(encoding, newline, root):
    write_list(root, newline.join([*NAMES["train"], "", "  "]), encoding=encoding)
    assert values(root) == [1, 2, 3] and names(root) == NAMES["train"]


def test_a_list_of_another_encoding_is_named(root):
    write_list(root, "one\nM\u00fcnchen", encoding="latin-1")
    assert "train_aug.txt" in refusal(root) and "UTF-8" in refusal(root)


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".tif", ".TIFF", ".bmp", ".webp"])
def test_images_of_other_endings_are_found(ending, root):
    write_pair(root, "five", 5, ending)
    write_list(root, "one\nfive")
    found = Voc(root).load("train", 1)
    assert abs(int(found[0][0, 0, 0]) - 5) <= 1 and int(found[1][0, 0]) == 5


@pytest.mark.parametrize("ending", [".PNG", ".tif", ".bmp"])
def test_masks_of_other_endings_are_found(ending, root):
    write_pair(root, "five", 5, ".jpg", ending)
    write_list(root, "one\nfive")
    assert values(root) == [1, 5]


def test_a_mask_of_an_unfit_format_is_found_and_refused(root):
    for ending, kind in ((".gif", "GIF"), (".jpg", "JPEG"), (".JPEG", "JPEG")):
        write_pair(root, f"five{ending[1:]}", 5, ".jpg", ending)
        write_list(root, f"five{ending[1:]}")
        assert f"{ending} is a {kind} file" in refusal(root)


def test_an_id_of_two_files_is_the_usual_one_or_refused(root):
    write_pair(root, "five", 5, ".jpg")
    Image.new("L", (8, 6), 9).save(root / IMAGES / "five.png")
    write_list(root, "five")
    assert values(root) == [5]
    (root / IMAGES / "five.jpg").rename(root / IMAGES / "five.bmp")
    text = refusal(root)
    assert "five.bmp or five.png" in text
    write_list(root, f"{IMAGES}/five.png {MASKS}/one.png\n{IMAGES}/two.jpg {MASKS}/two.png")  # the way out
    assert [int(Voc(root).load("train", index)[0][0, 0, 0]) for index in (0, 1)] == [9, 2]


@pytest.mark.parametrize(
    "line",
    ["{i}/one.jpg", "one.jpg", "./one", "/{i}/one.jpg /{m}/one.png", "{i}/one.jpg\t{m}/one.png",
     "{i}\\one.jpg {m}\\one.png", "{root}/{i}/one.jpg {root}/{m}/one.png", "{root}/{i}/one.jpg",
     "{i}/../{i}/one.jpg {m}/one.png"],
)  # fmt: skip
def test_ways_to_name_a_pair(line, root):
    write_list(root, line.format(i=IMAGES, m=MASKS, root=root))
    assert values(root) == [1] and names(root) == ["one"]


def test_absolute_paths_may_lie_anywhere(root, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    for part, ending in ((IMAGES, "jpg"), (MASKS, "png")):
        (root / part / f"two.{ending}").rename(outside / f"two.{ending}")
    write_list(root, f"one\n{outside}/two.jpg {outside}/two.png")
    assert values(root) == [1, 2]
    write_list(root, f"{outside}/two.jpg {outside}/none.png")
    assert f"mask {outside}/none.png is missing" in refusal(root)
    write_list(root, f"{outside}/two.jpg")
    assert "line 1" in refusal(root) and f"{outside}/two.jpg" in refusal(root) and "mask" in refusal(root)


def test_a_missing_file_is_named_as_it_was_looked_for(root):
    for line, missing in (("seven", "seven.jpg"), ("seven.png", "seven.png"), ("one\n/no/a.jpg /no/a.png", "no/a.jpg")):
        write_list(root, line)
        assert f"{missing} is missing" in refusal(root)


def test_names_with_spaces_and_dots(root):
    write_pair(root, "IMG 001 (copy)", 5)
    write_pair(root, "a.b.v2", 6)
    write_list(root, "IMG 001 (copy)\na.b.v2\none")
    assert values(root) == [5, 6, 1] and names(root) == ["IMG 001 (copy)", "a.b.v2", "one"]
    write_list(root, "one two three")
    assert "line 1 of image list" in refusal(root)


def test_one_file_name_in_two_folders(root):
    write_pair(root, "a/0000", 5)
    write_pair(root, "b/0000", 6)
    write_list(root, "a/0000\nb/0000")
    assert values(root) == [5, 6] and names(root) == ["a/0000", "b/0000"]


def test_names_are_unique_where_endings_alone_differ(root):
    write_pair(root, "five", 5, ".png")
    write_pair(root, "five", 5, ".bmp")
    write_list(root, f"{IMAGES}/five.png {MASKS}/five.png\n{IMAGES}/five.bmp {MASKS}/one.png\none")
    assert names(root) == [f"{IMAGES}/five.png", f"{IMAGES}/five.bmp", "one"]


@pytest.mark.parametrize(
    "again", ["one", "one.jpg", "./one", "{i}/one.jpg {m}/two.png", "{root}/{i}/one.jpg {m}/one.png"]
)
def test_a_true_duplicate_is_refused_however_it_is_written(again, root):
    write_list(root, "one\ntwo\n" + again.format(i=IMAGES, m=MASKS, root=root))
    assert "train_aug.txt" in refusal(root) and "one.jpg more than once" in refusal(root)


# training and test images


@pytest.mark.parametrize("written", ["{}", "{}.jpg", f"/{IMAGES}/{{0}}.jpg /{MASKS}/{{0}}.png"])
def test_images_of_both_lists_are_counted(written, root):
    write_list(root, "\n".join(["four", *(written.format(name) for name in ("three", "one"))]), "test")
    text = refusal(root)
    assert "2 of the 3 images" in text and "val.txt" in text and "train_aug.txt" in text and "for example three" in text


def test_the_same_name_in_folders_of_their_own_is_not_shared(root):
    write_pair(root, "train/1", 5)
    write_pair(root, "val/1", 6)
    write_list(root, "train/1")
    write_list(root, "val/1", "test")
    assert values(root) == [5] and Voc(root).image_id("test", 0) == "val/1"


# classes and values


@pytest.mark.parametrize(
    ("held", "says"),
    [([[0, 255], [0], [0, 255], [0, 255]], "0 (background) in 3, 255 (void) in 2 of 3 masks"),
     ([[0, 3], [0, 4], [0, 3, 4], [3]], "0 (background) in 3, 3 (bird) in 2, 4 (boat) in 2 of 3 masks"),
     ([[0], [0, 1], [0, 1], [1]], "0 (background) in 3, 1 (aeroplane) in 2 of 3 masks")],
    ids=["0 and 255", "shifted", "first class 0"],
)  # fmt: skip
def test_a_task_without_images_says_what_the_masks_hold(held, says, root):
    for name, present in zip(sum(NAMES.values(), []), held, strict=True):
        Image.fromarray(np.resize(np.array(present, np.uint8), (6, 8))).save(root / MASKS / f"{name}.png")
    with pytest.raises(InputError) as caught:
        list(Stream.cut(Voc(root), "1-1", ["1", "2"]))
    text = str(caught.value)
    assert "no train image" in text and says in text and "--classes" in text and "\n" not in text


def test_many_values_are_counted_and_not_listed(root):
    for name, present in (("one", np.arange(1, 20)), ("four", [1, 20])):
        Image.fromarray(np.resize(np.array(present, np.uint8), (6, 8))).save(root / MASKS / f"{name}.png")
    with pytest.raises(InputError, match=r"3 \(bird\) in 2, .* and 9 more values of 3 masks"):
        list(Stream.cut(Voc(root), "1-1", ["1", "20"]))


# the program


def test_foreign_lists_train_as_the_plain_ones(data, tmp_path):
    """End to end: exit code, and the very losses."""
    logs = []
    plain = (data / LISTS["train"]).read_text()
    for name, text in (("plain", plain), ("foreign", "\ufeff" + plain.replace("\n", ".jpg\r\n"))):
        (data / LISTS["train"]).write_bytes(text.encode())
        assert css(*run_arguments(data, tmp_path, name, "--method", "finetune", protocol="2-1")).code == 0
        logs.append((tmp_path / name / "log.jsonl").read_text())
    assert logs[0] == logs[1] and logs[0].count('"ce"') > 4


def test_shared_images_end_in_one_sentence(data, tmp_path):
    (data / LISTS["test"]).write_text((data / LISTS["train"]).read_text())
    outcome = css(*run_arguments(data, tmp_path / "runs", "run"))
    assert outcome.code == 2 and "40 of the 40 images" in outcome.complaint and not (tmp_path / "runs").exists()
