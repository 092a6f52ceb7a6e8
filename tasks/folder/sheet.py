"""A contact sheet: for each class the image that shows most of it, with the class's name as data.yaml gives it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tasks.colours import ColourTable
from tasks.folder.check import Check, Pair
from tasks.folder.writing import write_whole
from tasks.font import font
from tasks.reading import open_image, open_mask

CELL, CAPTION = 180, 36  # pixels
COLUMNS = 6
DIMMED = 0.35


def write_sheet(result: Check, path: Path) -> None:
    """A PNG with one cell for every class that occurs. A class whose cell shows something else has the wrong name."""
    cells = [
        _cell(result, class_id, name)
        for class_id, name in enumerate(result.description.class_names)
        if class_id and any(result.images(split)[class_id] for split in result.splits)
    ]
    if not cells:
        return
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * (CELL + CAPTION)), "white")
    for place, cell in enumerate(cells):
        sheet.paste(cell, (place % columns * CELL, place // columns * (CELL + CAPTION)))
    write_whole(path, lambda temporary: sheet.save(temporary, format="png"))


def _cell(result: Check, class_id: int, name: str) -> Image.Image:
    ids, colour = result.description.ids, tuple(result.description.palette[class_id].tolist())
    value = next(value for value in result.description.names if ids[value] == class_id)
    pair = max(result.pairs, key=lambda pair: pair.counts[value] / max(1, pair.counts.sum()))
    cell = Image.new("RGB", (CELL, CELL + CAPTION), "white")
    cell.paste(_lit(pair, value, result.description.colour_table), (2, CAPTION))
    draw = ImageDraw.Draw(cell)
    draw.rectangle((2, 4, 14, 16), fill=colour, outline="black")
    draw.text((20, 3), f"{name} ({value})", "black", font(12))
    draw.text((3, 19), pair.name, "grey", font(12))
    return cell


def _lit(pair: Pair, value: int, colours: ColourTable | None) -> Image.Image:
    """The image with everything but one class dimmed, at most CELL pixels wide and high."""
    image, mask = open_image(pair.image), open_mask(pair.mask, colours)
    image.thumbnail((CELL - 4, CELL - 4))
    lit = np.array(mask.resize(image.size, Image.Resampling.NEAREST)) == value
    pixels = np.array(image)
    return Image.fromarray(np.where(lit[..., None], pixels, (pixels * DIMMED).astype(np.uint8)))
