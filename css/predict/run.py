"""Predictions for everything that is named: read ahead, segmented one by one, written meanwhile."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from css.predict.inputs import Item, Video
from css.predict.network import Network
from css.predict.outputs import Outputs, VideoWriter
from css.predict.view import View, segment
from css.report.overlay import draw_overlay
from css.system.peak_memory import give_back
from tasks import InputError
from tasks.reading import open_image

_LARGE = 1 << 27  # bytes
_BAND = 1024  # rows
_AHEAD = 2  # images that are decoded, and results that are written, while the network is at work


def predict_all(network: Network, items: Sequence[Item], view: View, outputs: Outputs, skip: bool) -> dict[str, str]:
    """Writes the outputs of all items; returns a sentence for each that failed, by its name. The others are done.

    Args:
        network: What segments.
        items: Images and videos.
        view: How the network sees them.
        outputs: What is written.
        skip: Whether images whose files are all there are left out.

    Raises InputError if something cannot be written, or if no item at all could be done.
    """
    failures: dict[str, str] = {}
    done = [item for item in items if skip and not item.moving and all(p.exists() for p in outputs.paths(item.stem))]
    todo, scratch = [item for item in items if item not in done], _scratch(outputs)
    with (
        ThreadPoolExecutor(_AHEAD) as pool,
        tqdm(total=len(items), initial=len(done), unit="image", disable=None) as bar,
    ):
        written: deque[Future] = deque()
        for item, image in _decoded([item for item in todo if not item.moving], pool):
            if isinstance(image, InputError):
                failures[str(item.source)] = str(image)
            else:
                mask, scores = segment(network, image, view, scratch)
                _give_back(image)
                written.append(pool.submit(outputs.write, item.stem, image, mask, scores, Path(str(item.source))))
            while len(written) > _AHEAD:
                written.popleft().result()
            bar.update()
        for future in written:
            future.result()
        for item in todo:
            if item.moving:
                _predict_video(network, item, view, outputs, failures)
                bar.update()
    if failures and len(failures) == len(items):
        raise InputError(next(iter(failures.values())))
    if {"csv", "coco"} & set(outputs.save):
        for item in done:
            outputs.collect(item.stem, outputs.stored_mask(item.stem), Path(str(item.source)))
    outputs.finish()
    return failures


def _decoded(items: Sequence[Item], pool: ThreadPoolExecutor) -> Iterator[tuple[Item, np.ndarray | InputError]]:
    """Every image, or why it cannot be read; a few are decoded ahead."""
    waiting = deque((item, pool.submit(_read, item)) for item in items[:_AHEAD])
    for item in [*items[_AHEAD:], *[None] * min(_AHEAD, len(items))]:
        first, future = waiting.popleft()
        yield first, future.result()
        if item is not None:
            waiting.append((item, pool.submit(_read, item)))


def _scratch(outputs: Outputs) -> Path | None:
    """Where the probabilities of tiles are kept while they are needed."""
    return outputs.folder if "scores" in outputs.save else None


def _read(item: Item) -> np.ndarray | InputError:
    try:
        image = _pixels(open_image(str(item.source)))
    except InputError as error:
        return error
    _give_back(image)
    return image


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3), taken in bands: Pillow would hold all of it three times."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND):
        part = image.crop((0, top, image.width, min(top + _BAND, image.height)))
        pixels[top : top + _BAND] = np.asarray(part)
    return pixels


def _give_back(image: np.ndarray) -> None:
    """What a large image has left behind, in decoding it and in seeing its tiles, is half as large as all the rest."""
    if image.nbytes > _LARGE:
        give_back()


def _predict_video(network: Network, item: Item, view: View, outputs: Outputs, failures: dict[str, str]) -> None:
    """Frame by frame: the overlay as a video, everything else as for images, in a folder of the video's name."""
    video = Video(item)
    film = VideoWriter(outputs.folder / f"{item.stem}_overlay.mp4", video.rate) if "overlay" in outputs.save else None
    frames = Outputs(outputs.folder, [kind for kind in outputs.save if kind != "overlay"], outputs.classes,
                     outputs.names, outputs.palette, outputs.areas, outputs.regions)  # fmt: skip
    try:
        for number, frame in enumerate(
            tqdm(video, item.stem, video.length or None, unit="frame", leave=False, disable=None)
        ):
            mask, scores = segment(network, frame, view, _scratch(outputs))
            stem = f"{item.stem}/{number:06}"
            frames.write(stem, frame, mask, scores, Path(f"{stem}.png"))
            if film:
                film.write(draw_overlay(frame, mask, outputs.names))
    except InputError as error:
        failures[str(item.source)] = str(error)
    except KeyboardInterrupt:
        if not isinstance(item.source, int):  # a camera has no other end
            raise
    finally:
        if film:
            film.close()
