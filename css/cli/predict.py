"""css predict."""

from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from tqdm import tqdm

from css.kinds.choice import kind_of
from css.report.results import read_results
from css.run.saved import config_of, finished_task, load_model
from css.system.pictures import write_png
from css.system.processes import Processes
from css.training.evaluate import predict as predict_channels
from tasks import InputError
from tasks.palette import distinct_palette
from tasks.reading import open_image
from tasks.views import WholeImage


def predict(run: tyro.conf.Positional[Path], images: tyro.conf.Positional[tuple[Path, ...]], /, task: int | None = None,
            out: Path = Path("predictions")) -> None:  # fmt: skip
    """Segments your own images: a palette mask (raw class ids) and an overlay for each.

    Args:
        run: Run folder.
        images: Image files.
        task: Which task's model; default: the last finished one.
        out: Folder for IMAGE_mask.png and IMAGE_overlay.png.
    """
    if not images:
        raise InputError("css predict needs at least one image file after the run folder.")
    if len({path.stem for path in images}) < len(images):
        raise InputError("css predict: two images have the same name, and so would their masks; take one at a time.")
    config = config_of(run)
    kind_of(config.dataset).require_masks("css predict")
    index, processes = finished_task(run, task), Processes.join()
    model, palette = load_model(run, config, index, processes), _palette(run)
    for path in tqdm(images, unit="image"):
        pixels = np.array(open_image(path))
        height, width = pixels.shape[:2]
        padded, _ = WholeImage()(pixels, np.zeros((height, width), np.uint8))
        channels = predict_channels(model, torch.from_numpy(padded).permute(2, 0, 1)[None], config, processes)
        mask = np.array(model.classes, np.uint8)[channels[0, :height, :width].cpu().numpy()]
        write_png(out / f"{path.stem}_overlay.png", cv2.addWeighted(pixels, 0.5, palette[mask], 0.5, 0))
        write_png(out / f"{path.stem}_mask.png", mask, palette)
    print(f"{len(images)} masks and overlays in {out}")


def _palette(run: Path) -> np.ndarray:
    """Colours by raw class id, uint8 (256, 3): those of the run's data set."""
    palette = distinct_palette().copy()
    colours = read_results(run).get("colours", [])
    palette[: len(colours)] = np.array(colours, np.uint8).reshape(-1, 3)
    return palette
