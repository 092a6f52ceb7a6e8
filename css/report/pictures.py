"""Pictures of test images: image, ground truth, and the prediction of every task so far."""

from pathlib import Path

import cv2
import numpy as np
import torch

from css.config.settings import RunConfig
from css.model.segmenter import Segmenter
from css.system.pictures import write_png
from css.system.processes import Processes
from css.system.tensors import load_tensors, save_tensors
from css.training.evaluate import predict
from tasks import Stream, Task
from tasks.datasets.voc import voc_palette
from tasks.views import CentreCrop

MOST = 8  # rows
_CAPTION = 18  # pixels


def draw_task(home: Path, earlier: list[Path], stream: Stream, task: Task, model: Segmenter, config: RunConfig,
              processes: Processes) -> None:  # fmt: skip
    """Pictures of a finished task, into its folder `home`, and the predictions that they are made of.

    They show test images that stay the same for the whole stream, and what every task so far sees in them. `earlier`
    are the folders of the tasks before it.
    """
    pictured = chosen_images(stream)
    save_predictions(home / "predictions.safetensors", model, task, pictured, config, processes)
    files = [folder / "predictions.safetensors" for folder in (*earlier, home)]
    draw_strip(home / "pictures.png", task, pictured, config, files)


def chosen_images(stream: Stream) -> list[int]:
    """Test images that stay the same for the whole stream: the first ones that hold classes of each task in turn."""
    presence, chosen = stream.source.presence("test"), []
    for group in stream.groups:
        holding = np.flatnonzero(presence[:, [c for c in group if c]].any(1))
        fresh = [int(image) for image in holding if int(image) not in chosen]
        chosen += fresh[: max(1, MOST // len(stream))]
    return chosen[:MOST]


def save_predictions(path: Path, model: Segmenter, task: Task, images: list[int], config: RunConfig,
                     processes: Processes) -> None:  # fmt: skip
    """Raw class ids predicted on centre crops of the chosen images, uint8 (images, H, W)."""
    pixels, _ = _crops(task, images, config.train.crop)
    channels = predict(model, pixels, config, processes).cpu().numpy()
    raw = np.array(task.seen_classes, np.uint8)[channels]
    save_tensors(path, {"predictions": torch.from_numpy(raw)})


def draw_strip(path: Path, task: Task, images: list[int], config: RunConfig, predictions: list[Path]) -> None:
    """A PNG with one row per image: image, ground truth, prediction after task 0, 1, ... (from their files)."""
    pixels, masks = _crops(task, images, config.train.crop)
    palette = voc_palette()
    photos = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    for photo, image in zip(photos, images, strict=True):
        _write(photo, task.source.image_id("test", image), (2, photo.shape[0] - 3))
    columns = [("image", photos), ("ground truth", palette[masks])]
    for index, file in enumerate(predictions):
        columns.append((f"after task {index}", palette[load_tensors(file)[0]["predictions"].numpy()]))
    drawn = [np.concatenate([_caption(title, rows.shape[2]), *rows]) for title, rows in columns]
    picture = np.concatenate([np.concatenate(drawn, 1), _legend(task, sum(part.shape[1] for part in drawn))])
    write_png(path, picture)


def _crops(task: Task, images: list[int], crop: int) -> tuple[torch.Tensor, np.ndarray]:
    transform = CentreCrop(crop)
    pairs = [transform(*task.source.load("test", image)) for image in images]
    pixels = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    return pixels, np.stack([mask for _, mask in pairs])


def _write(picture: np.ndarray, text: str, corner: tuple[int, int]) -> None:
    """Small black letters with a white rim, in place; `corner` is their lower left one (x, y)."""
    for colour, thickness in (((255, 255, 255), 3), ((0, 0, 0), 1)):
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, thickness, cv2.LINE_AA)


def _caption(title: str, width: int) -> np.ndarray:
    strip = np.full((_CAPTION, width, 3), 255, np.uint8)
    _write(strip, title, (3, _CAPTION - 5))
    return strip


def _legend(task: Task, width: int) -> np.ndarray:
    """Colour and name of every class of the stream, new ones of this task underlined."""
    palette, names = voc_palette(), task.source.class_names
    classes, cell = sum(task.groups, []), 150
    per_row = max(1, width // cell)
    legend = np.full((-(-len(classes) // per_row) * _CAPTION, width, 3), 255, np.uint8)
    for place, label in enumerate(classes):
        x, y = place % per_row * cell + 3, place // per_row * _CAPTION + 3
        cv2.rectangle(legend, (x, y), (x + 12, y + 12), palette[label].tolist(), -1)
        _write(legend, names[label], (x + 17, y + 11))
        if label in task.new_classes and task.index:
            cv2.line(legend, (x + 17, y + 14), (x + cell - 12, y + 14), (200, 0, 0), 1)
    return legend
