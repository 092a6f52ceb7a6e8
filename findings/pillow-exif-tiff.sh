#!/usr/bin/env bash
# Pillow 13.0.0: the same pixels with the same EXIF orientation are turned when they are read from a TIFF file, and not
# when they are read from JPEG, PNG or WebP; OpenCV 5.0.0 turns all four.
#
# Versions: pillow 13.0.0, numpy 2.4.6, opencv-python-headless 5.0.0.93; Python 3.11.
# Expected by most: a library turns all files or none (Pillow: none, which is what ImageOps.exif_transpose is for).
# Seen: see the table. A photograph and a mask that are read by two libraries, or from two formats, come apart; at 180
# degrees, and where images are square, without a change of size that an assertion would catch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import cv2
import numpy as np
import PIL
from PIL import Image

pixels = np.zeros((32, 32, 3), np.uint8)
pixels[:16] = 255  # white above, black below
exif = Image.Exif()
exif[0x0112] = 3  # shown upside down
found = {}
for name in ("jpg", "png", "webp", "tif"):
    Image.fromarray(pixels).save(f"photo.{name}", exif=exif)
    read = {"Pillow": np.array(Image.open(f"photo.{name}")), "OpenCV": cv2.imread(f"photo.{name}")}
    found[name] = {reader: bool(image[0, 0, 0] < 128) for reader, image in read.items()}
print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}: turned by an orientation of 180 degrees?")
for name, turned in found.items():
    print(f"  {name:5}", turned)
other = {"Pillow": False, "OpenCV": True}
seen = {"jpg": other, "png": other, "webp": other, "tif": {"Pillow": True, "OpenCV": True}}
print("as described" if found == seen else "CHANGED")
sys.exit(found != seen)
PY
