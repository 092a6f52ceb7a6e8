#!/usr/bin/env bash
# datumaro 1.13.12: z_order says which annotation is drawn on top, and the COCO export sorts by nothing and drops it.
#
# Input:      one image, a "hat" polygon with z_order 1 above a "bag" polygon with z_order 0; they overlap.
#
# Versions: datumaro 1.13.12; Python 3.11.
# Expected:   as COCO has no z_order, the annotations are written from the lowest to the highest, so that a reader that
#             draws in the order of the file (as most do) sees the hat on top; or a warning.
# Seen:       they are written in the order of the list, hat first, without a warning: the bag is on top. And when
#             datumaro reads the file that it wrote, both have another z_order than before.
# Way round:  export with crop_covered=True and segmentation_mode="mask", which cuts covered parts off.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datumaro==1.13.12
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import sys

import datumaro
import numpy as np
from datumaro.components.annotation import AnnotationType, LabelCategories, Polygon
from datumaro.components.media import Image
from pycocotools import mask

print("datumaro", datumaro.__version__)
hat = Polygon([5, 5, 30, 5, 30, 30, 5, 30], label=0, z_order=1, id=1, group=1)
bag = Polygon([20, 10, 50, 10, 50, 35, 20, 35], label=1, z_order=0, id=2, group=2)
item = datumaro.DatasetItem("a", subset="train", media=Image.from_numpy(np.zeros((40, 60, 3), np.uint8)),
                            annotations=[hat, bag])
labels = {AnnotationType.label: LabelCategories.from_iterable(["hat", "bag"])}
datumaro.Dataset.from_iterable([item], categories=labels, media_type=Image).export("out", "coco_instances", save_media=True)

content = json.load(open("out/annotations/instances_train.json"))
names = {c["id"]: c["name"] for c in content["categories"]}
written = [names[a["category_id"]] for a in content["annotations"]]
drawn = np.full((40, 60), "-", dtype=object)
for a in content["annotations"]:
    drawn[mask.decode(mask.merge(mask.frPyObjects(a["segmentation"], 40, 60))).astype(bool)] = names[a["category_id"]]
(back,) = datumaro.Dataset.import_from("out", "coco_instances")
orders = {("hat", "bag")[a.label]: a.z_order for a in back.annotations}
print("order in the file:", written)
print("on top where they overlap, drawn in the order of the file:", drawn[20, 25], "(z_order says hat)")
print("z_order after reading it back:", orders, "(written with hat 1, bag 0)")
sys.exit(0 if written == ["hat", "bag"] and drawn[20, 25] == "bag" and orders != {"hat": 1, "bag": 0} else 1)
PY
