"""Eight bits: an OpenVINO model whose convolutions compute in int8, with ranges measured on the user's images."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from css.predict.exported import runtime


def quantised(model: Any, images: Sequence[np.ndarray]) -> Any:
    """An openvino.Model of float weights to one of int8, by nncf's post-training quantisation.

    Args:
        model: Takes uint8 (1, 3, H, W).
        images: uint8 (H, W, 3), as the network will see its images; the ranges of all its maps are measured on them.

    Raises InputError if nncf is not installed.
    """
    nncf = runtime("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    pixels = [np.ascontiguousarray(image.transpose(2, 0, 1)[None]) for image in images]
    with contextlib.redirect_stdout(io.StringIO()):  # bars of its own
        return nncf.quantize(model, nncf.Dataset(pixels), subset_size=len(pixels))
