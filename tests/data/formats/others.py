"""Writes tests/oracles/annotation_formats.npz: small annotations, and what the tools of their formats make of them.

Run in an environment of its own, as the tests need none of these packages:

    pip install labelme==6.3.1 datumaro==1.13.12 label-studio-sdk==2.1.2
    python tests/data/formats/others.py
"""

import base64
import io
import json
import sys
import tempfile
from pathlib import Path

import datumaro
import numpy as np
from datumaro.components.annotation import AnnotationType, LabelCategories, Mask, MaskCategories, Polygon
from datumaro.components.media import Image as Media
from label_studio_sdk.converter import brush
from labelme.utils.shape import shapes_to_label
from PIL import Image

HEIGHT, WIDTH = 40, 60
LABELS = ["bag", "hat", "scarf"]
ALL_LABELS = {"__ignore__": 255, "_background_": 0, "bag": 1, "hat": 2, "scarf": 3}


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def labelme_shapes(rng: np.random.Generator, count: int) -> list[dict]:
    """Shapes of every type, with corners between and outside the pixels."""
    shapes = []
    numbers = {
        "circle": 2,
        "rectangle": 2,
        "line": 2,
        "point": 1,
        "oriented_rectangle": 4,
        "linestrip": 4,
        "polygon": 5,
    }
    for _ in range(count):
        kind = str(rng.choice([*numbers, None, "mask"]))
        label = str(rng.choice(list(ALL_LABELS)))
        if kind == "mask":
            left, top = int(rng.integers(0, 30)), int(rng.integers(0, 20))
            pixels = rng.random((12, 17)) < 0.7
            points = [[left, top], [left + 16, top + 11]]
            shapes.append({"label": label, "shape_type": kind, "points": points, "mask": pixels})
            continue
        points = rng.uniform((-6, -6), (WIDTH + 6, HEIGHT + 6), (numbers.get(kind, 3), 2))
        points = (np.rint(points) if rng.random() < 0.4 else points.round(3)).tolist()
        shapes.append({"label": label, "shape_type": None if kind == "None" else kind, "points": points})
    return shapes


def by_labelme() -> dict[str, np.ndarray]:
    """JSON as labelme saves it, and the label maps of its shapes_to_label."""
    files, maps = [], []
    for seed in range(24):
        shapes = labelme_shapes(np.random.default_rng(seed), 9)
        maps.append(shapes_to_label((HEIGHT, WIDTH), shapes, ALL_LABELS)[0].astype(np.uint8))
        for shape in shapes:
            if "mask" in shape:
                shape["mask"] = base64.b64encode(png(shape["mask"].astype(np.uint8))).decode()
        files.append({"imagePath": f"..\\photos\\{seed}.png", "imageData": None, "shapes": shapes,
                      "imageHeight": HEIGHT, "imageWidth": WIDTH})  # fmt: skip
    return {"labelme_files": np.array(json.dumps(files)), "labelme_maps": np.stack(maps)}


def random_map(rng: np.random.Generator) -> np.ndarray:
    return np.kron(rng.integers(0, len(LABELS) + 1, (8, 12)), np.ones((5, 5))).astype(np.uint8)


def by_datumaro_as_cvat(folder: Path) -> dict[str, np.ndarray]:
    """CVAT's "Segmentation mask 1.1" is datumaro's VOC export: masks in colours with labelmap.txt."""
    names = ["background", *LABELS]
    colours = {0: (0, 0, 0), 1: (250, 50, 83), 2: (0, 128, 128), 3: (184, 61, 245)}
    maps = [random_map(np.random.default_rng(seed)) for seed in range(4)]
    items = [
        datumaro.DatasetItem(
            id=f"frame {number}", subset="default", media=Media.from_numpy(data=np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
            annotations=[Mask(labels == value, label=value) for value in range(1, 4)],
        )
        for number, labels in enumerate(maps)
    ]  # fmt: skip
    categories = {
        AnnotationType.label: LabelCategories.from_iterable(names), AnnotationType.mask: MaskCategories(colours),
    }  # fmt: skip
    dataset = datumaro.Dataset.from_iterable(items, categories=categories, media_type=Media)
    dataset.export(str(folder), "voc_segmentation", save_media=True, label_map="source")
    masks = [(folder / "SegmentationClass" / f"frame {number}.png").read_bytes() for number in range(4)]
    return {
        "cvat_table": np.array((folder / "labelmap.txt").read_text()),
        "cvat_list": np.array((folder / "ImageSets/Segmentation/default.txt").read_text()),
        "cvat_maps": np.stack(maps),
        **{f"cvat_mask_{number}": np.frombuffer(content, np.uint8) for number, content in enumerate(masks)},
    }


def by_datumaro_as_coco(folder: Path) -> dict[str, np.ndarray]:
    """Polygons whose order of drawing is not their order in the file, as COCO: covered parts cut off, run lengths."""
    items, maps = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        boxes = [(*rng.integers(0, 30, 2), *rng.integers(8, 25, 2)) for _ in range(4)]
        orders = rng.permutation(4)
        labels = rng.integers(0, 3, 4)
        polygons = []
        for number, (left, top, width, height) in enumerate(boxes):
            right, bottom = min(left + width, WIDTH), min(top + height, HEIGHT)
            points = np.array([left, top, right, top, right, bottom, left, bottom]).tolist()
            polygon = Polygon(points, label=int(labels[number]), z_order=int(orders[number]), group=number + 1)
            polygons.append(polygon)
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        for polygon in sorted(polygons, key=lambda polygon: polygon.z_order):
            x0, y0, x1, y1 = (int(polygon.points[place]) for place in (0, 1, 4, 5))
            drawn[y0:y1, x0:x1] = polygon.label + 1
        maps.append(drawn)
        media = Media.from_numpy(data=np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        items.append(datumaro.DatasetItem(id=str(seed), subset="train", media=media, annotations=polygons))
    categories = {AnnotationType.label: LabelCategories.from_iterable(LABELS)}
    dataset = datumaro.Dataset.from_iterable(items, categories=categories, media_type=Media)
    dataset.export(str(folder), "coco_instances", save_media=True, crop_covered=True, segmentation_mode="mask")
    content = (folder / "annotations/instances_train.json").read_text()
    return {"datumaro_coco": np.array(content), "datumaro_maps": np.stack(maps)}


def by_label_studio(folder: Path) -> dict[str, np.ndarray]:
    """Tasks as Label Studio exports them, and the PNGs that its converter writes for them."""
    tasks, maps = [], []
    for number in range(3):
        rng = np.random.default_rng(number)
        result, drawn = [], np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(4):
            value = int(rng.integers(1, len(LABELS) + 1))
            alpha = (np.kron(rng.random((8, 12)) < 0.3, np.ones((5, 5))) * 255).astype(np.uint8)
            alpha[0, 0] = 128  # not above the threshold
            pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
            pixels[..., 3] = alpha
            drawn[alpha > 128] = value
            result.append(
                {"original_width": WIDTH, "original_height": HEIGHT, "from_name": "my-tag", "to_name": "image",
                 "type": "brushlabels",
                 "value": {"rle": brush.encode_rle(pixels.ravel()), "brushlabels": [LABELS[value - 1]]}}
            )  # fmt: skip
        maps.append(drawn)
        tasks.append({"id": 40 + number, "data": {"image": f"/data/upload/1/0a1b2c3d-photo%20{number}.png"},
                      "annotations": [{"id": 7 + number, "completed_by": 1, "result": result}]})  # fmt: skip
        flat = [{**region, **region["value"]} for region in result]
        brush.save_brush_images_from_annotation(40 + number, 7 + number, 1, "my-tag", flat, str(folder), "png")
    files = sorted(folder.glob("*.png"))
    for task in tasks:  # the run lengths are in the PNGs, and long
        for region in task["annotations"][0]["result"]:
            region["value"]["rle"] = []
    return {
        "studio_tasks": np.array(json.dumps(tasks)),
        "studio_names": np.array([file.name for file in files]),
        "studio_pngs": np.stack([np.array(Image.open(file)) for file in files]),
        "studio_maps": np.stack(maps),
    }


def main() -> None:
    out = Path(__file__).parents[2] / "oracles" / "annotation_formats.npz"
    arrays = by_labelme()
    for maker in (by_datumaro_as_cvat, by_datumaro_as_coco, by_label_studio):
        with tempfile.TemporaryDirectory() as folder:
            arrays |= maker(Path(folder))
    np.savez_compressed(out, **arrays)
    print(f"{out}: {out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
