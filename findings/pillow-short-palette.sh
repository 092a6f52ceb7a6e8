#!/usr/bin/env bash
# Pillow 13.0.0: saving a mask of mode P as PNG changes its class ids, without a word, if its palette has fewer colours
# than the largest id needs. The number of colours chooses the bits of a pixel, and what does not fit is cut.
#
# Versions: pillow 13.0.0, numpy 2.4.6; Python 3.11.
# Expected by most: the file holds the indices of the image (or save() raises an error).
# Seen: a mask of the ids 0, 1, 2, 5 and 255 with a palette of two colours (background, the one class that somebody
# cared to colour) comes back as 0 and 1, even with save(..., bits=8). Mode L, or a palette filled up to 256 entries, keeps it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import PIL
from PIL import Image

ids = np.array([[0, 1, 2, 5, 255]], np.uint8)
back = {}
for name, palette, options in [
    ("two colours", [0, 0, 0, 255, 0, 0], {}),
    ("two colours, bits=8", [0, 0, 0, 255, 0, 0], {"bits": 8}),
    ("256 colours", [0, 0, 0, 255, 0, 0, *[0] * 762], {}),
]:
    mask = Image.fromarray(ids)
    mask.putpalette(palette)
    assert mask.mode == "P" and (np.array(mask) == ids).all()
    mask.save("mask.png", **options)
    back[name] = np.array(Image.open("mask.png")).ravel().tolist()
print(f"Pillow {PIL.__version__}: saved {ids.ravel().tolist()}, read back:")
for name, values in back.items():
    print(f"  {name}: {values}")
seen = {
    "two colours": [0, 1, 1, 1, 1],
    "two colours, bits=8": [0, 1, 1, 1, 1],
    "256 colours": ids.ravel().tolist(),
}
print("as described" if back == seen else "CHANGED")
sys.exit(back != seen)
PY
