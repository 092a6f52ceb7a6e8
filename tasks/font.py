"""Letters for pictures."""

import functools

from matplotlib import get_data_path
from PIL import ImageFont


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib; Pillow's own font and OpenCV's have no umlauts."""
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
