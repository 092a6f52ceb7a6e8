"""Pictures of test images for people: what every task so far sees in the same images, and where a task is wrong."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from css.config.settings import RunConfig
from css.model.segmenter import Segmenter
from css.report.examples import Example
from css.report.overlay import CONFUSED, INVENTED, MISSED, UNCOUNTED, draw_errors, draw_overlay, heading, legend
from css.system.pictures import write_png
from css.system.processes import Processes
from css.system.tensors import load_tensors, save_tensors
from css.training.evaluate import predict
from tasks import Stream, Task
from tasks.palette import vivid_palette
from tasks.source import VOID

PREDICTIONS = "predictions.safetensors"  # in the folder of a task: what the pictures of later tasks are made of, too
MOST = 8  # rows
SIDE = 256  # pixels of one picture, whatever size the network saw


def draw_task(home: Path, earlier: list[Path], stream: Stream, task: Task, model: Segmenter, config: RunConfig,
              processes: Processes) -> None:  # fmt: skip
    """Pictures of a finished task, into its folder `home`, and the predictions that they are made of.

    They show test images that stay the same for the whole stream, and what every task so far sees in them. `earlier`
    are the folders of the tasks before it.
    """
    pictured = chosen_images(stream)
    save_predictions(home / PREDICTIONS, model, task, pictured, config, processes)
    files = [folder / PREDICTIONS for folder in (*earlier, home)]
    draw_strip(home / "pictures.png", task, pictured, files)


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
    raw = _predicted(model, task, images, config, processes)
    save_tensors(path, {"predictions": torch.from_numpy(raw)})


def draw_strip(path: Path, task: Task, images: list[int], predictions: list[Path]) -> None:
    """A PNG with one row per image: image, ground truth, prediction after task 0, 1, ... whose file exists."""
    names = task.source.class_names
    stream = [VOID, *itertools.chain(*task.groups)]  # other classes are background in it
    shown = [(photo, mask * np.isin(mask, stream)) for photo, mask in (_crop(task, image, SIDE) for image in images)]
    columns = [("image", [photo for photo, _ in shown])]
    columns.append(("ground truth", [draw_overlay(*pair, names) for pair in shown]))
    for index, file in enumerate(predictions):
        if not file.exists():  # the model of an extended run's earlier task is not there (--keep last)
            continue
        masks = load_tensors(file)[0]["predictions"].numpy()
        drawn = [draw_overlay(photo, _enlarged(mask), names) for (photo, _), mask in zip(shown, masks, strict=True)]
        columns.append((f"after task {index}", drawn))
    titles = np.concatenate([heading(title, SIDE) for title, _ in columns], 1)
    picture = np.concatenate([np.concatenate(pictures) for _, pictures in columns], 1)
    classes = [(names[c] + (" (new)" if c in task.new_classes and task.index else ""), vivid_palette()[c])
               for c in sum(task.groups, []) if c]  # fmt: skip
    write_png(path, np.concatenate([titles, picture, legend(classes, picture.shape[1])]))


def draw_examples(home: Path, examples: Sequence[Example], task: Task, model: Segmenter, config: RunConfig,
                  processes: Processes) -> list[dict[str, Any]]:  # fmt: skip
    """One PNG for each example in the folder of a task: ground truth, prediction, errors, side by side.

    Returns what a report has to know of each: `file`, `why`, `image`, `iou` and, of one class, `class_id`.
    """
    places = [int(task.test_indices[example.position]) for example in examples]
    found = _predicted(model, task, places, config, processes) if places else ()
    facts = []
    for number, (example, image, mask) in enumerate(zip(examples, places, found, strict=True)):
        photo, raw = _crop(task, image, SIDE)
        truth, prediction = _known(task, raw), _enlarged(mask)
        names = task.source.class_names
        panels = [draw_overlay(photo, truth, names), draw_overlay(photo, prediction, names),
                  draw_errors(photo, truth, prediction)]  # fmt: skip
        titles = ["ground truth", "prediction", "errors"]
        heads = np.concatenate([heading(title, SIDE) for title in titles], 1)
        kinds = [("missed", MISSED), ("invented", INVENTED), ("taken for another class", CONFUSED),
                 ("not counted", UNCOUNTED)]  # fmt: skip
        file = f"example_{number}_{example.why}.png"
        write_png(home / file, np.concatenate([heads, np.concatenate(panels, 1), legend(kinds, 3 * SIDE)]))
        facts.append({
            "file": file, "image": task.source.image_id("test", image), "head": len(heads),
            **example.facts(task.seen_classes),
        })  # fmt: skip
    return facts


def _predicted(model: Segmenter, task: Task, images: list[int], config: RunConfig, processes: Processes) -> np.ndarray:
    """Raw class ids on centre crops as large as those of training, uint8 (images, H, W)."""
    crops = np.stack([_crop(task, image, config.train.crop)[0] for image in images])
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
    return np.array(task.seen_classes, np.uint8)[predict(model, pixels, config, processes).cpu().numpy()]


def _crop(task: Task, image: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    from tasks.views import CentreCrop  # see css.kinds.segmentation

    return CentreCrop(side)(*task.source.load("test", image))


def _enlarged(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)


def _known(task: Task, mask: np.ndarray) -> np.ndarray:
    """The truth as the task is tested with it: classes that are still to come are background or void."""
    raw = np.full(256, VOID, np.uint8)
    raw[: len(task.seen_classes)] = task.seen_classes
    return raw[task.test_lut[mask]]
