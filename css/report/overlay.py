"""Masks drawn on photographs for people, in `vivid_palette`: contours, class names, what is wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from tasks.font import font
from tasks.palette import vivid_palette
from tasks.source import BACKGROUND, VOID

_FILL = 0.35  # share of the class colour inside of an object
_BAND = 1 << 22  # pixels that are blended at a time: memory stays small for large images

# What can be wrong with a pixel, in colours that colour-blind people tell apart (Okabe and Ito, 2008).
MISSED, INVENTED, CONFUSED = (230, 159, 0), (0, 114, 178), (204, 60, 160)
UNCOUNTED = (255, 255, 255)  # void


def draw_overlay(photo: np.ndarray, mask: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """The photograph (H, W, 3) as it is, objects of the mask (H, W, class ids) tinted and with contours.

    If `names` by class id are given, the name stands on the largest part of every class.
    """
    picture, colours = photo.copy(), vivid_palette()
    band = max(1, _BAND // mask.shape[1])
    for top in range(0, len(mask), band):
        rows = slice(top, top + band)
        tinted = cv2.addWeighted(photo[rows], 1 - _FILL, colours[mask[rows]], _FILL, 0)
        inside = (mask[rows] != BACKGROUND) & (mask[rows] != VOID)
        picture[rows][inside] = tinted[inside]
    width = max(2, round(min(mask.shape) / 200))
    for label in objects(mask):
        outline(picture, mask == label, colours[label].tolist(), width)
    if len(names):
        write_names(picture, mask, names)
    return picture


def class_pixels(mask: np.ndarray) -> np.ndarray:
    """How many pixels of a mask uint8 (H, W) have each class id, int64 (256,); in bands, to need little memory."""
    band = max(1, _BAND // mask.shape[1])
    bands = (mask[top : top + band] for top in range(0, len(mask), band))
    return sum((np.bincount(rows.ravel(), minlength=256) for rows in bands), np.zeros(256, np.int64))


def objects(mask: np.ndarray) -> list[int]:
    """Class ids in a mask, without background and void."""
    return [int(label) for label in np.flatnonzero(class_pixels(mask)) if BACKGROUND < label < VOID]


def outline(picture: np.ndarray, region: np.ndarray, colour: Sequence[int], width: int) -> None:
    """Contours of a region bool (H, W), in place: the colour with a white rim, so that it shows on any ground."""
    found, _ = cv2.findContours(region.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, found, -1, (255, 255, 255), width + 2)
    cv2.drawContours(picture, found, -1, list(colour), width)


def write_names(picture: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> None:
    """The name of every class on the largest connected part of it, in place."""
    size, step = max(12, min(mask.shape) // 22), max(1, max(mask.shape) // 1024)
    coarse = np.ascontiguousarray(mask[::step, ::step])
    for label in objects(coarse):
        _, _, stats, centres = cv2.connectedComponentsWithStats((coarse == label).astype(np.uint8))
        x, y = centres[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())] * step
        box = word(names[label], vivid_palette()[label], size)[: len(picture), : picture.shape[1]]
        top = int(min(max(0, y - len(box) / 2), len(picture) - len(box)))
        left = int(min(max(0, x - box.shape[1] / 2), picture.shape[1] - box.shape[1]))
        picture[top : top + len(box), left : left + box.shape[1]] = box


def word(text: str, colour: np.ndarray, size: int) -> np.ndarray:
    """A word on a box of a colour, (h, w, 3)."""
    letters = font(size)
    left, top, right, bottom = map(int, letters.getbbox(text))
    box = Image.new("RGB", (right - left + size // 2, bottom - top + size // 2), tuple(map(int, colour)))
    dark = np.dot(colour, (0.299, 0.587, 0.114)) > 110  # letters in black on light colours, in white on others
    ImageDraw.Draw(box).text((size // 4 - left, size // 4 - top), text, font=letters, fill="black" if dark else "white")
    return np.array(box)


class Errors(NamedTuple):
    """Regions bool (H, W) in which a prediction is wrong; void of the ground truth is in none of them."""

    missed: np.ndarray  # an object that is called background
    invented: np.ndarray  # background that is called an object
    confused: np.ndarray  # an object that is called another one


def errors(truth: np.ndarray, prediction: np.ndarray) -> Errors:
    """What is wrong where, from two masks (H, W) of class ids."""
    wrong = (truth != prediction) & (truth != VOID)
    missed, invented = wrong & (prediction == BACKGROUND), wrong & (truth == BACKGROUND)
    return Errors(missed, invented, wrong & ~missed & ~invented)


def draw_errors(photo: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The photograph in pale grey, errors and void in the colours above, contours of the truth."""
    grey = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = cv2.addWeighted(grey, 0.55, np.full_like(grey, 255), 0.45, 0)
    regions = [*errors(truth, prediction), truth == VOID]
    for region, colour in zip(regions, (MISSED, INVENTED, CONFUSED, UNCOUNTED), strict=True):
        picture[region] = np.rint(0.25 * picture[region] + 0.75 * np.array(colour)).astype(np.uint8)
    for label in objects(truth):
        outline(picture, truth == label, (40, 40, 40), 1)
    return picture


def heading(text: str, width: int, size: int = 14) -> np.ndarray:
    """A line of text above a picture, (h, width, 3) on white."""
    image = Image.new("RGB", (width, 2 * size), "white")
    ImageDraw.Draw(image).text((size // 2, size // 2 - 2), text, font=font(size), fill="black")
    return np.array(image)


def legend(entries: Sequence[tuple[str, Sequence[int]]], width: int, size: int = 14) -> np.ndarray:
    """Colours and their names in lines, (h, width, 3) on white."""
    letters, edge = font(size), size // 2
    places, x, y = [], edge, edge
    for name, _ in entries:
        length = int(letters.getlength(name)) + 3 * size
        if x + length > width and x > edge:
            x, y = edge, y + size + edge
        places.append((x, y))
        x += length
    image = Image.new("RGB", (width, y + size + edge), "white")
    draw = ImageDraw.Draw(image)
    for (name, colour), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top, left + size, top + size), fill=tuple(map(int, colour)), outline="grey")
        draw.text((left + size + edge, top - 1), name, font=letters, fill="black")
    return np.array(image)
