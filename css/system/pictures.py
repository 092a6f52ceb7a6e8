"""PNG files, which appear when they are complete."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from css.system.files import atomic


def write_png(path: Path, pixels: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Writes uint8 pixels: RGB (H, W, 3), or (H, W) indices into a palette (256, 3)."""
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    with atomic(path) as temporary:
        picture.save(temporary, format="png")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG of 110 dots per inch."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
