"""Masks for images of one's own, with a network that answers by colour."""

import csv
import itertools
import json
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_voc import css, run_arguments

from css.predict.inputs import find_items
from css.predict.network import padded
from css.predict.outputs import Outputs, VideoWriter
from css.predict.polygons import polygons
from css.predict.reading import batches
from css.predict.run import predict_all
from css.predict.view import View, best_channel, ramp, segment, starts
from tasks import InputError
from tasks.palette import vivid_palette

NAMES = ["background", "red", "green", "blue"]


class ByColour:
    """Channel k is class `classes[k]`; what is red, green or blue is of that class, everything else background."""

    classes, names, colours, size = [0, 3, 1, 2], NAMES, [], 64

    def __init__(self):
        self.seen, self.batches = [], []

    def scores(self, images):
        self.batches.append(len(images))
        assert len({padded(image).shape for image in images}) == 1, "they fit together"
        return [self.of_one(image) for image in images]

    def of_one(self, image):
        self.seen.append(image.shape[:2])
        channels = image.astype(np.float32).transpose(2, 0, 1) / 255
        scores = np.concatenate([np.full_like(channels[:1], 0.5), channels[[2, 0, 1]]])
        return scores / scores.sum(0)


def scene(height=90, width=120):
    """A green ring and a red box on grey."""
    image = np.full((height, width, 3), 90, np.uint8)
    cv2.circle(image, (width // 3, height // 2), height // 4, (0, 255, 0), height // 10)
    cv2.rectangle(image, (2 * width // 3, height // 4), (width - 10, height // 2), (255, 0, 0), -1)
    return image


def truth(image):
    return np.select([image[..., k] == 255 for k in range(3)], [1, 2, 3], 0).astype(np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def outputs(folder, *save):
    return Outputs(folder, save, ByColour.classes, NAMES, vivid_palette())


def test_class_ids_not_channels():
    mask, scores = segment(ByColour(), scene(), View())
    assert (mask == truth(scene())).all() and scores.shape == (4, 90, 120)


def test_size_is_the_short_side():
    network = ByColour()
    mask, scores = segment(network, scene(), View(size=45))
    assert network.seen == [(45, 60)] and scores.shape == (4, 45, 60) and mask.shape == (90, 120)
    assert (mask == truth(scene())).mean() > 0.95


def test_scales_and_mirrored_copies():
    network = ByColour()
    _, scores = segment(network, scene(), View(scales=(0.5, 1, 2), flip=True))
    assert network.seen == [(45, 60)] * 2 + [(90, 120)] * 2 + [(180, 240)] * 2
    assert np.allclose(scores.sum(0), 1, atol=1e-5)
    plain = segment(ByColour(), scene(), View())[1]
    assert np.allclose(segment(ByColour(), scene(), View(flip=True))[1], plain, atol=1e-6), "mirrored back"


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 32), (80, 17), (500, 100)])
def test_tiles_give_the_whole(tile, overlap):
    """A network that looks at single pixels cannot tell tiles from the whole image."""
    image = scene(230, 170)
    mask, scores = segment(ByColour(), image, View(tile=tile, overlap=overlap))
    assert scores is None and (mask == truth(image)).all()


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (80, 17), (500, 100)])
def test_tiles_give_the_probabilities_of_the_whole(tile, overlap, tmp_path):
    image = scene(230, 170)
    whole = segment(ByColour(), image, View())[1]
    scores = segment(ByColour(), image, View(tile=tile, overlap=overlap), tmp_path / "out")[1]
    assert scores.dtype == np.float16 and np.abs(scores - whole).max() < 1e-3
    assert list((tmp_path / "out").iterdir()) == [], "the file has no name"


def test_no_room_for_the_probabilities_of_tiles(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="Cannot write"):
        segment(ByColour(), scene(), View(tile=64), tmp_path / "out")


def test_seams_are_blended():
    """Two tiles that disagree change over within their overlap, in the middle of it."""

    class ByTile(ByColour):
        def of_one(self, image):
            self.seen.append(0)
            share = 1.0 if len(self.seen) == 1 else 0.0
            one = np.full(image.shape[:2], share, np.float32)
            return np.stack([one, 1 - one, 0 * one, 0 * one])

    mask, _ = segment(ByTile(), np.zeros((64, 96, 3), np.uint8), View(tile=64, overlap=32))
    assert (mask[:, :47] == 0).all() and (mask[:, 49:] == 3).all()


@pytest.mark.parametrize(("length", "tile", "overlap"), itertools.product((64, 65, 100, 1000), (64,), (0, 10, 32)))
def test_tiles_cover_a_side(length, tile, overlap):
    places, covered = starts(length, tile, overlap), np.zeros(length)
    for place in places:
        covered[place : place + tile] += ramp(tile, overlap)
    assert places[0] == 0 and places[-1] + tile == max(length, tile) and (covered > 0).all()
    assert all(second - first <= tile - overlap for first, second in itertools.pairwise(places))


def test_best_channel_is_that_of_all_channels_enlarged():
    scores = np.random.default_rng(0).random((5, 7, 9)).astype(np.float32)
    enlarged = np.stack([cv2.resize(score, (40, 30)) for score in scores])
    assert (best_channel(scores, 30, 40) == enlarged.argmax(0)).all()


def test_memory_of_tiles_does_not_grow_with_height():
    def peak(height):
        image = np.zeros((height, 256, 3), np.uint8)
        tracemalloc.start()
        segment(ByColour(), image, View(tile=128, overlap=32))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size - 2 * 256 * height  # the mask, and its parts

    assert peak(4096) < 1.2 * peak(512)


def painted(found, shape):
    """Polygons back to a mask."""
    mask = np.zeros(shape, np.uint8)
    for polygon in found:
        cv2.fillPoly(mask, [np.rint(polygon.points).astype(np.int32)], polygon.class_id)
    return mask


def test_polygons_are_the_mask_again():
    mask = truth(scene(200, 260))
    found = list(polygons(mask))
    assert [polygon.class_id for polygon in found] == [1, 2]
    again = painted(found, mask.shape)
    for label in (1, 2):
        both = ((mask == label) & (again == label)).sum() / ((mask == label) | (again == label)).sum()
        assert both > 0.97, "the hole of the ring is one, too"
    ring = found[1]
    assert ring.area == (mask == 2).sum()
    rows, columns = np.nonzero(mask == 2)
    assert ring.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_regions_of_a_pixel_are_no_polygon():
    mask = np.zeros((20, 20), np.uint8)
    mask[3, 3] = 1
    assert list(polygons(mask)) == []


def test_every_output(tmp_path):
    image = write(tmp_path / "in" / "a.png", scene())
    chosen = outputs(tmp_path / "out", "mask", "ids", "overlay", "scores", "labelme", "coco", "csv")
    assert predict_all(ByColour(), find_items([str(image)]), View(), chosen, skip=False) == {}
    out = tmp_path / "out"
    expected = truth(scene())
    for name in ("a_mask.png", "a_ids.png"):
        assert (np.array(Image.open(out / name)) == expected).all()
    assert Image.open(out / "a_mask.png").mode == "P" and Image.open(out / "a_ids.png").mode == "L"
    overlay = np.array(Image.open(out / "a_overlay.png"))
    assert (overlay[0] == scene()[0]).all() and overlay.shape == (90, 120, 3)
    with np.load(out / "a_scores.npz") as scores:
        assert scores["class_ids"][scores["scores"].argmax(0)].tolist() == expected.tolist()
        assert scores["class_names"].tolist() == ["background", "blue", "red", "green"]
    drawn = json.loads((out / "a.json").read_text())
    assert (out / drawn["imagePath"]).resolve() == image and {s["label"] for s in drawn["shapes"]} == {"red", "green"}
    coco = json.loads((out / "coco.json").read_text())
    assert coco["images"] == [{"id": 1, "file_name": str(image), "height": 90, "width": 120}]
    assert {c["id"]: c["name"] for c in coco["categories"]} == {1: "red", 2: "green", 3: "blue"}
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2] and coco["annotations"][1]["id"] == 2
    (row,) = csv.DictReader((out / "summary.csv").open())
    assert float(row["red (%)"]) == pytest.approx(100 * (expected == 1).mean(), abs=1e-3)
    assert sum(float(value) for key, value in row.items() if key.endswith("(%)")) == pytest.approx(100, abs=1e-3)


def test_folders_globs_and_names(tmp_path, monkeypatch):
    for name in ("x/a.png", "x/deep/a.jpg", "y/b.PNG", "x/notes.txt"):
        write(tmp_path / name, scene()) if "txt" not in name else (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert [item.stem for item in find_items(["x"])] == ["a", "deep/a"]
    assert [item.stem for item in find_items(["y/*", "x/a.png"])] == ["b", "a"]
    assert find_items(["0"])[0].source == 0 and find_items(["0"])[0].moving
    for wrong, word in ((["x/a.png", "x/deep/a.jpg"], "same name"), (["z"], "z does not exist"), ([], "at least one"),
                        (["*.tif"], "Nothing matches")):  # fmt: skip
        with pytest.raises(InputError, match=word):
            find_items(wrong)


def test_one_broken_image_does_not_stop_the_others(tmp_path):
    for name in "abcde":
        write(tmp_path / "in" / f"{name}.png", scene())
    (tmp_path / "in" / "c.png").write_bytes(b"\x89PNG no more")
    chosen = outputs(tmp_path / "out", "mask", "csv")
    failures = predict_all(ByColour(), find_items([str(tmp_path / "in")]), View(), chosen, skip=False)
    assert list(failures) == [str(tmp_path / "in" / "c.png")] and "c.png" in failures[str(tmp_path / "in" / "c.png")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_mask.png", "b_mask.png", "d_mask.png", "e_mask.png", "summary.csv",
    ]  # fmt: skip


def test_small_images_are_seen_together(tmp_path):
    """Each comes out as alone, and the files about all are in the order of the names."""
    sizes = [(90, 120), (120, 90), (90, 116), (64, 64)] * 5  # 116 and 120 become 83 and 85, which are padded to 96
    images = [np.roll(scene(*size), number, 1) for number, size in enumerate(sizes)]
    paths = [write(tmp_path / "in" / f"{number:02}.png", image) for number, image in enumerate(images)]
    paths[5].write_bytes(b"broken")
    network, view = ByColour(), View(size=64)
    failures = predict_all(
        network, find_items([str(tmp_path / "in")]), view, outputs(tmp_path / "out", "ids", "csv"), False
    )
    assert list(failures) == [str(paths[5])]
    assert sorted(network.batches) == [2, 4, 5, 8] and sum(network.batches) == 19
    for number, image in enumerate(images):
        if number != 5:
            found = np.array(Image.open(tmp_path / "out" / f"{number:02}_ids.png"))
            assert (found == segment(ByColour(), image, view)[0]).all()
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    assert [row["image"] for row in rows] == [str(path) for path in paths if path != paths[5]]


def test_at_other_scales_images_of_one_size_are_seen_together(tmp_path):
    """Copies of sizes that agree when they are padded need not agree."""
    for number, width in enumerate([116, 120, 116, 120]):
        write(tmp_path / "in" / f"{number}.png", scene(90, width))
    network, view = ByColour(), View(size=64, scales=(0.95, 1.3), flip=True)
    predict_all(network, find_items([str(tmp_path / "in")]), view, outputs(tmp_path / "out", "ids"), False)
    assert network.batches == [2] * 8


def test_large_images_and_those_in_tiles_are_seen_alone(tmp_path):
    for number in range(3):
        write(tmp_path / "in" / f"{number}.png", scene(300, 310))
    for view, expected in ((View(), [1] * 3), (View(size=64, tile=64), [1] * 6), (View(size=240), [2, 1])):
        network = ByColour()
        predict_all(network, find_items([str(tmp_path / "in")]), view, outputs(tmp_path / "out", "ids"), False)
        assert network.batches == expected


def test_images_that_wait_for_others_of_their_size_are_few(monkeypatch):
    """All different: each is seen at last, and no more than a handful are in memory."""
    monkeypatch.setattr("css.predict.reading._HELD", 4)
    made = iter((number, np.zeros((64, 64 + 16 * number, 3), np.uint8)) for number in range(9))
    order = [[number for number, _ in batch] for batch in batches(made, View())]
    assert order == [[number] for number in range(9)]
    assert next(made, None) is None
    taken = []
    taking = ((taken.append(number), np.zeros((64, 64 + number, 3), np.uint8)) for number in range(9))
    next(batches(taking, View()))
    assert taken == [0, 1, 2, 3], "the first one did not wait for all"


def test_large_images_that_wait_push_out_all_the_small_ones(monkeypatch):
    monkeypatch.setattr("css.predict.reading._HELD_BYTES", 1 << 20)
    small = [np.zeros((64, 64 + 16 * number, 3), np.uint8) for number in range(9)]
    large = [np.zeros((640, 1280 + 160 * number, 3), np.uint8) for number in range(3)]  # seen small, at --size 64
    sizes, held = [], 0

    def taken():
        nonlocal held
        for image in [*small, *large]:
            held += image.nbytes
            yield None, image
            sizes.append(held)

    for batch in batches(taken(), View(size=64)):
        held -= sum(image.nbytes for _, image in batch)
    assert max(sizes) <= 1 << 20 and held == 0


def test_scales_count_in_what_is_seen_together():
    images = [(None, np.zeros((64, 64, 3), np.uint8)) for _ in range(8)]
    assert [len(batch) for batch in batches(images, View(scales=(1.0, 4.0)))] == [2] * 4
    assert [len(batch) for batch in batches(images, View(scales=(0.5,)))] == [8]


def test_nothing_but_broken_images_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"a\.png"):
        predict_all(ByColour(), find_items([str(tmp_path / "a.png")]), View(), outputs(tmp_path / "o", "csv"), False)
    assert not (tmp_path / "o").exists()


def test_skip_existing(tmp_path):
    for name in "ab":
        write(tmp_path / "in" / f"{name}.png", scene())
    items, chosen = find_items([str(tmp_path / "in")]), outputs(tmp_path / "out", "mask", "csv")
    predict_all(ByColour(), items, View(), chosen, skip=False)
    first = (tmp_path / "out" / "summary.csv").read_text()
    (tmp_path / "out" / "b_mask.png").unlink()
    network = ByColour()
    predict_all(network, items, View(), outputs(tmp_path / "out", "mask", "csv"), skip=True)
    assert len(network.seen) == 1 and (tmp_path / "out" / "b_mask.png").exists()
    assert sorted((tmp_path / "out" / "summary.csv").read_text().splitlines()) == sorted(first.splitlines())


def test_an_interrupted_prediction_says_how_to_go_on(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("css.cli.predict.find_items", interrupt)
    outcome = css("predict", "run", "photo.jpg")
    assert outcome.code == 1 and outcome.complaint == "css: interrupted; the same command goes on with --skip-existing."


def test_an_output_that_cannot_be_written(tmp_path):
    image = write(tmp_path / "a.png", scene())
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"Cannot write.*move the file that is in its way"):
        predict_all(ByColour(), find_items([str(image)]), View(), outputs(tmp_path / "out", "ids"), skip=False)


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """OpenCV says it by its answer alone."""
    image = write(tmp_path / "a.png", scene())
    monkeypatch.setattr("cv2.imwrite", lambda *_: False)
    with pytest.raises(InputError, match=r"a_overlay\.png: it cannot be written completely; free some space"):
        predict_all(ByColour(), find_items([str(image)]), View(), outputs(tmp_path / "out", "overlay"), skip=False)
    assert list((tmp_path / "out").iterdir()) == []


def video(path: Path, frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MP4")
    for _ in range(frames):
        writer.write(np.ascontiguousarray(scene(96, 128)[:, :, ::-1]))
    writer.release()
    return path


def test_video(tmp_path):
    film = video(tmp_path / "film.mp4", 5)
    chosen = outputs(tmp_path / "out", "mask", "overlay", "csv")
    assert predict_all(ByColour(), find_items([str(film)]), View(size=48), chosen, skip=False) == {}
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == [*(f"film/{n:06}_mask.png" for n in range(5)), "film_overlay.mp4", "summary.csv"]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "film_overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and capture.get(cv2.CAP_PROP_FPS) == 10
    assert len(list(csv.reader((tmp_path / "out" / "summary.csv").open()))) == 6


def test_a_video_that_lacks_frames_is_not_left(tmp_path):
    film = VideoWriter(tmp_path / "film.mp4", 10)
    for _ in range(3):
        film.write(scene(96, 128))
    film.writer.release()
    film.temporary.write_bytes(film.temporary.read_bytes()[:500])  # as on a full disk, of which OpenCV does not tell
    with pytest.raises(InputError, match=r"film\.mp4 completely"):
        film.close()
    assert list(tmp_path.iterdir()) == []


def test_video_without_frames(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    image = write(tmp_path / "a.png", scene())
    items = find_items([str(image), str(tmp_path / "film.mp4")])
    failures = predict_all(ByColour(), items, View(), outputs(tmp_path / "out", "mask", "overlay"), skip=False)
    assert "no frame" in failures[str(tmp_path / "film.mp4")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_mask.png", "a_overlay.png"]


@pytest.mark.parametrize(
    ("view", "word"),
    [(View(size=3), "--size"), (View(tile=10), "--tile"), (View(tile=64, overlap=33), "--overlap"),
     (View(scales=()), "--scales"), (View(scales=(0.0,)), "--scales")],
)  # fmt: skip
def test_numbers_that_make_no_sense(view, word):
    with pytest.raises(InputError, match=word):
        view.check()


@pytest.mark.usefixtures("data")
def test_command(data, tmp_path):
    assert css(*run_arguments(data, tmp_path / "runs", "run", "--method", "finetune")).code == 0
    run, photos = tmp_path / "runs" / "run", tmp_path / "photos"
    photos.mkdir()
    for path in sorted((data / "JPEGImages").glob("test_00[0-3].jpg")):
        shutil.copy(path, photos)
    whole = css("predict", run, photos, "--out", tmp_path / "a", "--size", "full", "--save", "ids", "scores")
    assert whole.code == 0 and "4 of 4 done: ids, scores" in whole.out
    (photos / "broken.jpg").write_text("no")
    tiles = css(
        "predict", run, photos, "--out", tmp_path / "b", "--tile", "64", "--overlap", "16", "--save", "ids", "scores"
    )
    assert tiles.code == 1 and "4 of 5 done" in tiles.out and "broken.jpg" in tiles.err
    assert len(list((tmp_path / "b").glob("*_ids.png"))) == 4
    with np.load(tmp_path / "b" / "test_000_scores.npz") as kept:
        ids = np.array(Image.open(tmp_path / "b" / "test_000_ids.png"))
        assert (kept["class_ids"][kept["scores"].argmax(0)] == ids).mean() > 0.99, "but for ties of float16"
    for options, word in ((["--size", "2"], "--size"), (["--skip-existing", "--save", "csv"], "--save mask")):
        outcome = css("predict", run, photos, "--out", tmp_path / "c", *options)
        assert outcome.code == 2 and word in outcome.complaint and not (tmp_path / "c").exists()


def test_nothing_is_left_of_a_picture_that_cannot_be_written_completely(tmp_path, monkeypatch):
    def half(path, *_):
        Path(path).write_bytes(b"half")
        return False

    monkeypatch.setattr(cv2, "imwrite", half)
    with pytest.raises(InputError, match="cannot be written completely"):
        outputs(tmp_path / "out", "overlay").write("a", scene(), truth(scene()), None, Path("a.jpg"))
    assert not list((tmp_path / "out").iterdir())
