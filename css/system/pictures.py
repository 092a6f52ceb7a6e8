"""PNG files, which appear when they are complete."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from css.system.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # half a second, and predictions do without


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes uint8 pixels: RGB (H, W, 3)."""
    with atomic(path) as temporary:
        # Lossless at any level; the default, 6, takes twice as long for small images that are enlarged.
        Image.fromarray(pixels).save(temporary, format="png", compress_level=4)


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as a PNG of 110 dots per inch."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
