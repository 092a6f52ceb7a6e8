"""Images for predictions: decoded ahead, and put together where the network sees them small and at one size."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from css.predict.inputs import Item
from css.predict.network import MULTIPLE
from css.predict.view import View, resized_sides
from css.system.peak_memory import give_back
from tasks import InputError
from tasks.reading import open_image

AHEAD = 2  # images that are decoded, and results that are written, while the network is at work
_TOGETHER, _SEEN = 8, 1 << 17  # images in a batch and pixels that the network sees of it, at the most
_HELD, _HELD_BYTES = 128, 1 << 27  # images that wait for others of their size, at the most
_LARGE = 1 << 27  # bytes of an image whose traces are half as large as all the rest
_BAND = 1024  # rows
_Read = tuple[Item, np.ndarray]


def decoded(
    items: Sequence[Item], pool: ThreadPoolExecutor, failed: Callable[[Item, InputError], None]
) -> Iterator[_Read]:
    """Every image that can be read, uint8 (H, W, 3); a few are decoded ahead. `failed` is told of the others."""
    waiting = deque((item, pool.submit(_read, item)) for item in items[:AHEAD])
    rest = iter(items[AHEAD:])
    while waiting:
        item, future = waiting.popleft()
        waiting.extend((following, pool.submit(_read, following)) for following in itertools.islice(rest, 1))
        try:
            yield item, future.result()
        except InputError as error:
            failed(item, error)


def batches(images: Iterable[_Read], view: View) -> Iterator[list[_Read]]:
    """The images in batches that the network can see together; a large one, or one in tiles, is alone."""
    multiple = MULTIPLE if view.scales == (1.0,) else 1  # of other scales, those of one size alone agree in theirs
    waiting: dict[tuple[int, int], list[_Read]] = {}
    for read in images:
        height, width = resized_sides(read[1], view.size)
        sides = height + -height % multiple, width + -width % multiple
        most = int(_SEEN / (sides[0] * sides[1] * max(view.scales) ** 2))
        batch = waiting.setdefault(sides, [])
        batch.append(read)
        if view.tile or len(batch) >= min(_TOGETHER, most):
            yield waiting.pop(sides)
        while _too_much([image for group in waiting.values() for _, image in group]):
            yield waiting.pop(next(iter(waiting)))  # those that have waited longest
    yield from waiting.values()


def _too_much(held: Sequence[np.ndarray]) -> bool:
    return len(held) >= _HELD or sum(image.nbytes for image in held) > _HELD_BYTES


def give_back_of(image: np.ndarray) -> None:
    """Gives back the memory that a large image has left behind, in decoding it and in seeing its tiles."""
    if image.nbytes > _LARGE:
        give_back()


def _read(item: Item) -> np.ndarray:
    image = _pixels(open_image(str(item.source)))
    give_back_of(image)
    return image


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3), taken in bands: Pillow would hold all of it three times."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND):
        part = image.crop((0, top, image.width, min(top + _BAND, image.height)))
        pixels[top : top + _BAND] = np.asarray(part)
    return pixels
