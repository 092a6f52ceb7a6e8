"""Predictions for everything that is named: read ahead, segmented, small images together, written meanwhile."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from css.predict.inputs import Item, Video
from css.predict.network import Network
from css.predict.outputs import Outputs, VideoWriter
from css.predict.reading import AHEAD, batches, decoded, give_back_of
from css.predict.view import View, segment, segment_together
from css.report.overlay import draw_overlay
from tasks import InputError


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
    todo = [item for item in items if item not in done]
    with tqdm(total=len(items), initial=len(done), unit="image", disable=None) as bar:

        def failed(item: Item, error: InputError) -> None:
            failures[str(item.source)] = str(error)
            bar.update()

        _predict_images(network, [item for item in todo if not item.moving], view, outputs, failed, bar)
        for item in todo:
            if item.moving:
                _predict_video(network, item, view, outputs, failures)
                bar.update()
    if failures and len(failures) == len(items):
        raise InputError(next(iter(failures.values())))
    if {"csv", "coco"} & set(outputs.save):
        for item in done:
            outputs.collect(item.stem, outputs.stored_mask(item.stem), Path(str(item.source)))
    outputs.finish([str(item.source) for item in items])
    return failures


def _predict_images(network: Network, items: Sequence[Item], view: View, outputs: Outputs,
                    failed: Callable[[Item, InputError], None], bar: tqdm) -> None:  # fmt: skip
    written: deque[Future] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for batch in batches(decoded(items, pool, failed), view):
            images = [image for _, image in batch]
            if view.tile:
                found = [segment(network, images[0], view, _scratch(outputs))]
            else:
                found = segment_together(network, images, view)
            for (item, image), (mask, scores) in zip(batch, found, strict=True):
                give_back_of(image)
                written.append(pool.submit(outputs.write, item.stem, image, mask, scores, Path(str(item.source))))
            while len(written) > max(AHEAD, len(batch)):
                written.popleft().result()
            bar.update(len(batch))
        for future in written:
            future.result()


def _scratch(outputs: Outputs) -> Path | None:
    """Where the probabilities of tiles are kept while they are needed."""
    return outputs.folder if "scores" in outputs.save else None


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
