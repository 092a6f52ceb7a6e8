#!/usr/bin/env bash
# A colour TIFF of 16 bits whose colours lie in planes (PlanarConfiguration 2) is read wrongly by Pillow 13.0.0 and by
# OpenCV 5.0.0, each in its own way, without an error or a warning; size, mode and type are right.
#
# Versions: pillow 13.0.0, numpy 2.4.6, tifffile 2026.3.3, opencv-python-headless 5.0.0.93; Python 3.11.
# Expected by most: the picture, or an error, as for kinds of TIFF that a library does not know.
# Seen: Pillow takes the planes for planes of 8 bits, so every row is half of the row, its low bytes between the high
# ones; OpenCV takes the planes for interleaved pixels. tifffile 2026.3.3 reads back what it wrote.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3 opencv-python-headless==5.0.0.93
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

ramp = np.repeat(np.arange(8, dtype=np.uint16)[None] * 8192, 4, 0)
picture = np.stack([ramp, ramp // 2, np.full_like(ramp, 40000)])  # red, green, blue
print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}, tifffile {tifffile.__version__}; red of the first row:")
right = {}
for kind in ("contig", "separate"):
    planes = picture if kind == "separate" else picture.transpose(1, 2, 0)
    tifffile.imwrite("picture.tif", planes, photometric="rgb", planarconfig=kind)
    back = tifffile.imread("picture.tif")
    read = {
        "tifffile": (back if kind == "separate" else back.transpose(2, 0, 1)) >> 8,
        "Pillow": np.array(Image.open("picture.tif")).transpose(2, 0, 1),
        "OpenCV": cv2.imread("picture.tif", cv2.IMREAD_UNCHANGED)[..., ::-1].transpose(2, 0, 1) >> 8,
    }
    for reader, colours in read.items():
        right[kind, reader] = bool(colours.shape == picture.shape and (colours == picture >> 8).all())
        print(f"  {kind:9}{reader:9}{colours[0, 0].tolist()} {'right' if right[kind, reader] else 'wrong'}")
seen = {(kind, reader): kind == "contig" or reader == "tifffile" for kind, reader in right}
print("as described" if right == seen else "CHANGED")
sys.exit(right != seen)
PY
