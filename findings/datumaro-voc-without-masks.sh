#!/usr/bin/env bash
# datumaro 1.13.12: a data set of polygons exported as "voc_segmentation" has no masks, and nothing says so.
#
# Input:      one image with one polygon, exported as voc_segmentation with the labels of the data set.
#
# Versions: datumaro 1.13.12; Python 3.11.
# Expected:   SegmentationClass/a.png with the polygon drawn, or an error, or a warning.
# Seen:       exit code 0, no warning, an empty SegmentationClass and no list in ImageSets/Segmentation.
# Way round:  transform with "polygons_to_masks" before the export.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datumaro==1.13.12
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import logging
import sys
import warnings
from pathlib import Path

import datumaro
import numpy as np
from datumaro.components.annotation import AnnotationType, LabelCategories, Polygon
from datumaro.components.media import Image

print("datumaro", datumaro.__version__)
said = []
logging.getLogger().addHandler(type("Keep", (logging.Handler,), {"emit": lambda self, record: said.append(record.getMessage())})())
polygon = Polygon([5, 5, 30, 5, 30, 30, 5, 30], label=1, id=1, group=1)
labels = {AnnotationType.label: LabelCategories.from_iterable(["background", "hat"])}


def export(out: str, transform: str | None) -> list[str]:
    item = datumaro.DatasetItem("a", subset="train", media=Image.from_numpy(np.zeros((40, 60, 3), np.uint8)),
                                annotations=[polygon])
    dataset = datumaro.Dataset.from_iterable([item], categories=labels, media_type=Image)
    if transform:
        dataset.transform(transform)
    dataset.export(out, "voc_segmentation", save_media=True, label_map="source")
    return [str(path) for path in sorted(Path(out).rglob("*.png"))]


with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    masks = export("polygons", None)
about_masks = [text for text in [*said, *(str(w.message) for w in warned)] if "mask" in text.lower() or "polygon" in text.lower()]
print("masks of the polygon:", masks or "none", "- messages about it:", about_masks or "none")
print("masks after polygons_to_masks:", export("masks", "polygons_to_masks"))
sys.exit(0 if not masks and not about_masks else 1)
PY
