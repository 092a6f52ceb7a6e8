"""Annotation files as label maps: against the packages whose formats they are, and through `convert` into a folder."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tasks.errors import InputError
from tasks.folder import Folder
from tasks.formats import convert, read_any

ORACLE = Path(__file__).parent / "oracles" / "annotation_formats.npz"  # by tests/data/formats/others.py
HEIGHT, WIDTH = 40, 60
SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    with np.load(ORACLE) as archive:
        return dict(archive)


def photo(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)
    return path


def maps_of(annotated) -> dict[str, np.ndarray]:
    return {item.name: item.draw() for item in annotated.items}


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(folder: Path, annotations: list[dict], categories=((1, "hat"), (7, "bag")), images=("0.png",)) -> Path:
    """A COCO file whose images are there."""
    for name in images:
        photo(folder / name)
    listed = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(images)]
    numbered = [{"id": i, "image_id": 0, "iscrowd": 0, **annotation} for i, annotation in enumerate(annotations)]
    named = [{"id": number, "name": name} for number, name in categories]
    return write_json(folder / "coco.json", {"images": listed, "annotations": numbered, "categories": named})


def outline(category: int, *parts: list[float], **more) -> dict:
    return {"category_id": category, "segmentation": list(parts), **more}


def drawn(path: Path, crowd: str = "void") -> np.ndarray:
    return read_any([path], [], crowd)["train"].items[0].draw()


# COCO ----------------------------------------------------------------------------------------------------------------


def test_coco_square_has_the_pixels_of_pycocotools(tmp_path):
    labels = drawn(coco(tmp_path, [outline(7, SQUARE)]))
    assert (labels == 1).sum() == 16 and labels[2:6, 2:6].all()  # 25 by drawing with the border


def test_coco_outlines_equal_pycocotools_and_later_ones_are_on_top(tmp_path):
    rng = np.random.default_rng(0)
    parts = [rng.uniform(-4, 64, (6, 2)).round(2).ravel().tolist() for _ in range(12)]
    given = [outline(1 if i % 2 else 7, part) for i, part in enumerate(parts)]
    expected, reversed_order = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels = [coco_mask.decode(coco_mask.frPyObjects([part], HEIGHT, WIDTH))[..., 0].astype(bool) for part in parts]
    for i, inside in enumerate(pixels):
        expected[inside] = 1 if i % 2 else 2
    for i, inside in reversed(list(enumerate(pixels))):
        reversed_order[inside] = 1 if i % 2 else 2
    np.testing.assert_array_equal(drawn(coco(tmp_path, given)), expected)
    assert (expected != reversed_order).any()


def test_coco_holes_of_outlines_are_filled_and_those_of_run_lengths_kept(tmp_path):
    ring = np.zeros((HEIGHT, WIDTH), np.uint8)
    ring[5:30, 5:30], ring[10:20, 10:20] = 1, 0
    runs = coco_mask.encode(np.asfortranarray(ring))
    compressed = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    flat = ring.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    for segmentation in (compressed, {"size": [HEIGHT, WIDTH], "counts": counts}):
        given = [{"category_id": 1, "segmentation": segmentation}]
        np.testing.assert_array_equal(drawn(coco(tmp_path, given)), ring)
    outer, inner = [5, 5, 30, 5, 30, 30, 5, 30], [10, 10, 20, 10, 20, 20, 10, 20]
    assert drawn(coco(tmp_path, [outline(1, outer, inner)])).sum() == 25 * 25


def test_coco_crowds_are_void_below_everything_or_drawn_as_their_class(tmp_path):
    wide = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 10, HEIGHT * 50]}
    path = coco(tmp_path, [outline(7, SQUARE), {"category_id": 1, "segmentation": wide, "iscrowd": 1}])
    labels = drawn(path)
    assert (labels[2:6, 2:6] == 2).all() and (labels == 255).sum() == HEIGHT * 10 - 16
    assert (drawn(path, "class") == 1).sum() == HEIGHT * 10  # in the order of the file
    assert "supervision" in " ".join(read_any([path], [])["train"].remarks)
    assert not read_any([path], [], "class")["train"].remarks


def test_coco_box_without_outline_is_void(tmp_path):
    path = coco(tmp_path, [outline(1, SQUARE), {"category_id": 7, "segmentation": [], "bbox": [1.5, 1, 10, 8]}])
    labels = drawn(path)
    assert (labels[1:9, 1:12] > 0).all() and (labels == 255).sum() == 8 * 11 - 16 and (labels == 1).sum() == 16
    assert "1 objects have a box" in read_any([path], [])["train"].remarks[0]


def test_coco_categories_are_numbered_in_order_and_unused_ones_dropped(tmp_path):
    path = coco(tmp_path, [outline(90, SQUARE), outline(0, [20, 2, 26, 2, 26, 6])],
                ((90, "Tür"), (0, "a hat"), (5, "unused")), ("0.png", "street/empty.png"))  # fmt: skip
    annotated = read_any([path], [])["train"]
    assert annotated.names == ["a hat", "Tür"]
    maps = maps_of(annotated)
    assert maps["0"][3, 3] == 2 and maps["0"].max() == 2 and not maps["street/empty"].any()
    assert "1 images have no annotation" in annotated.remarks[0]


def test_datumaro_cuts_covered_parts_by_the_order_of_drawing(tmp_path, oracle):
    content = json.loads(str(oracle["datumaro_coco"]))
    for image in content["images"]:
        photo(tmp_path / image["file_name"])
    path = write_json(tmp_path / "coco.json", content)
    maps = maps_of(read_any([path], [], "class")["train"])
    assert len(maps) == len(oracle["datumaro_maps"])
    for number, expected in enumerate(oracle["datumaro_maps"]):
        np.testing.assert_array_equal(maps[str(number)], expected, err_msg=str(number))
    as_crowds = maps_of(read_any([path], [])["train"])  # datumaro marks all run lengths as crowds
    assert set(np.unique(as_crowds["0"])) == {0, 255}


# labelme -------------------------------------------------------------------------------------------------------------


def write_labelme(folder: Path, oracle) -> Path:
    for number, content in enumerate(json.loads(str(oracle["labelme_files"]))):
        photo(folder / "photos" / f"{number}.png")
        write_json(folder / "json" / f"{number}.json", content)
    return folder


def test_labelme_draws_as_labelme_does(tmp_path, oracle):
    annotated = read_any([write_labelme(tmp_path, oracle)], [])["train"]
    assert annotated.names == ["bag", "hat", "scarf"] and annotated.folder == tmp_path / "photos"
    maps = maps_of(annotated)
    for number, expected in enumerate(oracle["labelme_maps"]):
        np.testing.assert_array_equal(maps[str(number)], expected, err_msg=str(number))
    assert set(np.unique(oracle["labelme_maps"])) == {0, 1, 2, 3, 255}


def test_labelme_order_matters(tmp_path, oracle):
    folder = write_labelme(tmp_path, oracle)
    for path in (folder / "json").iterdir():
        content = json.loads(path.read_text())
        content["shapes"].reverse()
        write_json(path, content)
    maps = maps_of(read_any([folder], [])["train"])
    assert sum((maps[str(i)] != expected).any() for i, expected in enumerate(oracle["labelme_maps"])) > 20


# masks in colours ----------------------------------------------------------------------------------------------------


def write_cvat(folder: Path, oracle) -> Path:
    for number in range(4):
        photo(folder / "JPEGImages" / f"frame {number}.jpg")
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        (folder / "SegmentationClass" / f"frame {number}.png").write_bytes(oracle[f"cvat_mask_{number}"].tobytes())
    (folder / "labelmap.txt").write_text(str(oracle["cvat_table"]))
    return folder


def test_cvat_masks_by_label_map(tmp_path, oracle):
    annotated = read_any([write_cvat(tmp_path, oracle)], [])["train"]
    assert annotated.names == ["bag", "hat", "scarf"]
    maps = maps_of(annotated)
    for number, expected in enumerate(oracle["cvat_maps"]):
        np.testing.assert_array_equal(maps[f"frame {number}"], expected)


def test_images_may_lie_elsewhere(tmp_path, oracle):
    """Most exports of CVAT have no images, and the paths in labelme's files are those of another machine."""
    folder = write_cvat(tmp_path / "cvat", oracle)
    (folder / "JPEGImages").rename(tmp_path / "photos")
    maps = maps_of(read_any([folder], [tmp_path / "photos"])["train"])
    np.testing.assert_array_equal(maps["frame 2"], oracle["cvat_maps"][2])
    with pytest.raises(InputError, match="no images of the same names beside them: name their folder with --images"):
        read_any([folder], [])
    with pytest.raises(InputError, match=r"no image in .* is named like a mask"):
        read_any([folder], [folder])
    (write_labelme(tmp_path / "labelme", oracle) / "photos").rename(tmp_path / "elsewhere")
    annotated = read_any([tmp_path / "labelme"], [tmp_path / "elsewhere"])["train"]
    np.testing.assert_array_equal(maps_of(annotated)["5"], oracle["labelme_maps"][5])
    convert({"train": annotated}, tmp_path / "out")
    assert len(Folder(tmp_path / "out").presence("train")) + len(Folder(tmp_path / "out").presence("test")) == 24


def test_palette_in_another_order_is_read_by_colour(tmp_path, oracle):
    folder = write_cvat(tmp_path, oracle)
    for path in (folder / "SegmentationClass").iterdir():
        with Image.open(path) as mask:
            mask.convert("RGB").quantize(8).save(path)
    values = {
        int(v) for path in (folder / "SegmentationClass").iterdir() for v in np.unique(np.array(Image.open(path)))
    }
    maps = maps_of(read_any([folder], [])["train"])
    for number, expected in enumerate(oracle["cvat_maps"]):
        np.testing.assert_array_equal(maps[f"frame {number}"], expected)
    first = np.array(Image.open(folder / "SegmentationClass" / "frame 0.png"))
    assert values and (first != oracle["cvat_maps"][0]).any()  # by index it would be wrong


def test_colour_table_with_void_in_splits(tmp_path):
    for split in ("train", "val"):
        photo(tmp_path / split / "images" / "a.jpg", (4, 2))
        pixels = np.array([[[0, 0, 0], [9, 9, 9], [200, 0, 0], [0, 0, 200]]] * 2, np.uint8)
        (tmp_path / split / "masks").mkdir()
        Image.fromarray(pixels).save(tmp_path / split / "masks" / "a.png")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nvoid,9,9,9\ngroße Tür,200,0,0\nWand,0,0,200\n")
    splits = read_any([tmp_path], [])
    assert set(splits) == {"train", "val"} and splits["val"].names == ["große Tür", "Wand"]
    np.testing.assert_array_equal(splits["val"].items[0].draw(), [[0, 255, 1, 2]] * 2)


# Label Studio --------------------------------------------------------------------------------------------------------


def write_studio(folder: Path, oracle) -> Path:
    write_json(folder / "export" / "project-1.json", json.loads(str(oracle["studio_tasks"])))
    for name, pixels in zip(oracle["studio_names"], oracle["studio_pngs"], strict=True):
        Image.fromarray(pixels).save(folder / "export" / str(name))
    for number in range(3):
        photo(folder / "photos" / f"photo {number}.png")
    return folder


def test_label_studio_brushes(tmp_path, oracle):
    folder = write_studio(tmp_path, oracle)
    annotated = read_any([folder / "export"], [folder / "photos"])["train"]
    assert annotated.names == ["bag", "hat", "scarf"]
    maps = maps_of(annotated)
    for number, expected in enumerate(oracle["studio_maps"]):
        np.testing.assert_array_equal(maps[f"photo {number}"], expected)
    assert (oracle["studio_pngs"] == 128).any()  # half transparent is not drawn


# all of them ---------------------------------------------------------------------------------------------------------


def blobs(seed: int) -> np.ndarray:
    """Two round objects that do not touch, bool (2, H, W)."""
    rng, pixels = np.random.default_rng(seed), np.zeros((2, 80, 120), np.uint8)
    for place in range(2):
        centre = (int(rng.integers(22, 38)) + 60 * place, int(rng.integers(25, 55)))
        cv2.ellipse(pixels[place], centre, (int(rng.integers(8, 20)), int(rng.integers(8, 20))), 30, 0, 360, 1, -1)
    return pixels.astype(bool)


def test_outlines_of_masks_differ_from_them_at_the_border_only(tmp_path):
    """COCO loses the right and lower border of an outline through pixel centres; labelme gives the mask back."""
    for seed in range(5):
        pixels = blobs(seed)
        truth = pixels[0] + 2 * pixels[1].astype(np.uint8)
        contours = [
            cv2.findContours(p.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0] for p in pixels
        ]
        photo(tmp_path / "0.png", (120, 80))
        shapes = [
            {"label": n, "shape_type": "polygon", "points": c.tolist()} for n, c in zip("ab", contours, strict=True)
        ]
        write_json(tmp_path / "labelme" / "0.json", {"imagePath": "../0.png", "shapes": shapes})
        annotations = [outline(n, c.ravel().tolist(), id=n, image_id=0) for n, c in enumerate(contours, 1)]
        path = write_json(tmp_path / "coco.json", {
            "images": [{"id": 0, "file_name": "0.png", "width": 120, "height": 80}], "annotations": annotations,
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        })  # fmt: skip
        np.testing.assert_array_equal(drawn(tmp_path / "labelme"), truth)
        by_coco = drawn(path)
        border = cv2.dilate(truth, np.ones((3, 3))) != cv2.erode(truth, np.ones((3, 3)))
        assert (by_coco != truth).any() and (by_coco == truth)[~border].all()


def test_convert_writes_what_the_readers_draw(tmp_path, oracle):
    folder, out = write_labelme(tmp_path / "in", oracle), tmp_path / "out"
    splits = read_any([folder], [])
    convert(splits, out)
    source = Folder(out)
    assert source.class_names == ["background", "bag", "hat", "scarf"] and source.name == "out"
    found = {}
    for split in ("train", "test"):
        for index in range(len(source.presence(split))):
            image, mask = source.load(split, index)
            assert image.shape == (HEIGHT, WIDTH, 3)
            found[source.image_id(split, index)] = mask
    for name, labels in maps_of(splits["train"]).items():
        np.testing.assert_array_equal(found[name], labels)
    assert len(found) == 24 and len(source.presence("test")) >= 3
    with Image.open(out / "masks" / "3.png") as mask:
        assert mask.mode == "P"


def test_convert_of_two_files_has_one_numbering(tmp_path):
    train = coco(tmp_path / "a", [outline(1, SQUARE)], ((1, "hat"),))
    val = coco(tmp_path / "b", [outline(1, SQUARE), outline(2, [20, 2, 26, 2, 26, 6])], ((1, "bag"), (2, "hat")))
    convert(read_any([train, val], []), tmp_path / "out")
    source = Folder(tmp_path / "out")
    assert source.class_names == ["background", "hat", "bag"]
    assert source.load("train", 0)[1][3, 3] == 1
    assert source.load("test", 0)[1][3, 3] == 2 and source.load("test", 0)[1][3, 24] == 1


def test_convert_keeps_colours_and_splits(tmp_path, oracle):
    splits = read_any([write_cvat(tmp_path / "in", oracle)], [])
    convert(splits, tmp_path / "out")
    assert Folder(tmp_path / "out").palette[[0, 1, 3]].tolist() == [[0, 0, 0], [250, 50, 83], [184, 61, 245]]


def test_killed_convert_leaves_no_data_yaml_and_goes_on(tmp_path, oracle, monkeypatch):
    splits = read_any([write_cvat(tmp_path / "in", oracle)], [])
    last = splits["train"].items[-1]
    splits["train"].items[-1] = last._replace(draw=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(splits, tmp_path / "out")
    assert not (tmp_path / "out" / "data.yaml").exists()
    splits["train"].items[-1] = last
    convert(splits, tmp_path / "out")
    assert len(Folder(tmp_path / "out").presence("train")) == 3


# bad input -----------------------------------------------------------------------------------------------------------


def no_source(folder):
    return [folder / "nowhere"]


def empty_folder(folder):
    (folder / "empty").mkdir()
    return [folder / "empty"]


def not_json(folder):
    (folder / "a.json").write_text("{")
    return [folder / "a.json"]


def other_json(folder):
    return [write_json(folder / "a.json", {"images": []})]


def image_missing(folder):
    path = coco(folder, [outline(1, SQUARE)])
    (folder / "0.png").unlink()
    return [path]


def other_size(folder):
    path = coco(folder, [outline(1, SQUARE)])
    photo(folder / "0.png", (HEIGHT, WIDTH))
    return [path]


def unknown_category(folder):
    return [coco(folder, [outline(99, SQUARE)])]


def annotation_of_no_image(folder):
    return [coco(folder, [outline(1, SQUARE, image_id=5)])]


def outlined_background(folder):
    return [coco(folder, [outline(1, SQUARE)], ((1, "background"),))]


def run_lengths_too_short(folder):
    return [coco(folder, [{"category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [3, 4]}}])]


def run_lengths_of_another_image(folder):
    return [coco(folder, [{"category_id": 1, "segmentation": {"size": [9, 9], "counts": [81]}}])]


def outline_of_words(folder):
    return [coco(folder, [outline(1, ["a"] * 6)])]


def no_annotations(folder):
    return [coco(folder, [])]


def two_images_of_one_name(folder):
    return [coco(folder, [outline(1, SQUARE)], images=("0.png", "0.jpg"))]


def duplicate_class(folder):
    return [coco(folder, [outline(1, SQUARE), outline(7, SQUARE)], ((1, "hat"), (7, " hat ")))]


def labelme_points(folder):
    photo(folder / "0.png")
    write_json(
        folder / "0.json", {"imagePath": "0.png", "shapes": [{"label": "a", "shape_type": "points", "points": []}]}
    )
    return [folder]


def labelme_two_corners(folder):
    photo(folder / "0.png")
    write_json(folder / "0.json", {"imagePath": "0.png", "shapes": [{"label": "a", "points": [[1, 2], [3, 4]]}]})
    return [folder]


def labelme_image_missing(folder):
    write_json(
        folder / "0.json", {"imagePath": "..\\0.png", "shapes": [{"label": "a", "points": [[1, 2], [3, 4], [5, 5]]}]}
    )
    return [folder]


def colours(folder, table="a:1,2,3::\n", mask=None):
    photo(folder / "images" / "0.png", (4, 2))
    (folder / "masks").mkdir()
    Image.fromarray(np.full((2, 4, 3), (1, 2, 3), np.uint8) if mask is None else mask).save(folder / "masks" / "0.png")
    (folder / "labelmap.txt").write_text(table)
    return [folder]


def unknown_colour(folder):
    return colours(folder, mask=np.full((2, 4, 3), (7, 8, 9), np.uint8))


def grey_values(folder):
    return colours(folder, mask=np.ones((2, 4), np.uint8))


def same_colour(folder):
    return colours(folder, "a:1,2,3::\nb:1,2,3::\n")


def malformed_table(folder):
    return colours(folder, "a:1,2::\n")


def mask_of_another_size(folder):
    return colours(folder, mask=np.full((3, 4, 3), (1, 2, 3), np.uint8))


def brush_without_json(folder):
    Image.new("L", (4, 2)).save(folder / "task-1-annotation-1-by-1-tag-a-0.png")
    return [folder]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_source, "nowhere does not exist"),
        (empty_folder, "empty holds no annotations of a known format"),
        (not_json, "a.json is not readable JSON"),
        (other_json, "is not COCO json"),
        (image_missing, "'0.png', which is not in .*--images"),
        (other_size, "40x60 pixels, but was 60x40 when it was annotated .turned by a quarter"),
        (unknown_category, "category 99, which it does not name"),
        (annotation_of_no_image, "annotation 0 belongs to no image"),
        (outlined_background, "outlines a category 'background'"),
        (run_lengths_too_short, "annotation 0 of .* no usable outline .run lengths that do not add up"),
        (run_lengths_of_another_image, "run lengths of 9 rows"),
        (outline_of_words, "no usable outline"),
        (no_annotations, "have 0 classes"),
        (two_images_of_one_name, "two images are named 0"),
        (duplicate_class, "two categories named 'hat'"),
        (labelme_points, "type 'points', which has no area"),
        (labelme_two_corners, "polygon of 2 points"),
        (labelme_image_missing, "image '../0.png', which is not there"),
        (unknown_colour, "0.png has the colour #070809 at x 0, y 0, which no class has"),
        (grey_values, "grey values instead of colours"),
        (same_colour, "'a' and 'b' have the same colour #010203"),
        (malformed_table, "line 1 of .*labelmap.txt is not NAME"),
        (mask_of_another_size, "4x3 pixels but its image is 4x2"),
        (brush_without_json, "no JSON of their tasks"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, make, says):
    with pytest.raises(InputError, match=says) as caught:
        convert(read_any(make(tmp_path), []), tmp_path / "out")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not (tmp_path / "out" / "data.yaml").exists()


def test_existing_data_set_is_not_overwritten(tmp_path):
    path = coco(tmp_path, [outline(1, SQUARE)], images=("0.png", "1.png"))
    (tmp_path / "data.yaml").write_text("names: [mine]\n")
    with pytest.raises(InputError, match="is there already"):
        convert(read_any([path], []), tmp_path)
    assert (tmp_path / "data.yaml").read_text() == "names: [mine]\n"


def test_mask_bytes_are_those_of_the_archive(oracle):
    with Image.open(io.BytesIO(oracle["cvat_mask_0"].tobytes())) as mask:
        assert mask.mode in ("RGB", "P")
