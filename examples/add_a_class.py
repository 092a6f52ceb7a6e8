"""Add a class to a trained model from Python, in cells: built-in shapes, a tiny network, half a minute.

`python examples/add_a_class.py` writes everything into the folder add-a-class. See docs/extend.md.
"""

# %% Two folders as a practitioner has them: in the first one circles and squares are labelled, in the second triangles.
from pathlib import Path

import cv2
import numpy as np

import css
from tasks.datasets.shapes import render
from tasks.folder import init

HOME = Path("add-a-class")


def write_folder(folder: Path, names: dict[int, str], images: int = 60) -> Path:
    """Scenes of shapes of which those in `names` (by class of the shapes) are labelled, with data.yaml."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(images):
        image, mask = render(64, 0, "train", index)
        shape = np.where((mask > 0) & (mask < 255), (mask.astype(int) - 1) % 5 + 1, 0)  # 1 circle, 2 square, 3 triangle
        labels = np.where(np.isin(shape, list(names)), shape, 0).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index:03d}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{index:03d}.png"), labels)
    (folder / "classes.txt").write_text("".join(f"{value}: {name}\n" for value, name in names.items()))
    init(folder)
    return folder


old = HOME / "old" if (HOME / "old").exists() else write_folder(HOME / "old", {1: "circle", 2: "square"})
new = HOME / "new" if (HOME / "new").exists() else write_folder(HOME / "new", {3: "triangle"})

# %% What is in a folder?
data = css.Dataset.open(old)
print(data.names, len(data), "training images")

# %% A model of circles and squares. Your own would be there already.
model = css.train(
    old, "1-1", "frozen+align", runs=str(HOME), name="model",
    model={"encoder": "tu-test_resnet", "encoder_weights": "none"},
    train={"crop": 64, "batch": 8, "epochs": 3, "lr": 0.05, "workers": 0},
)  # fmt: skip

# %% Triangles, from their own images alone. The old images serve as a test of what is lost.
larger = model.extend(new, ["triangle"], old_test=old)
print(larger.names)

# %% Label map and probabilities of an image, and IoU by class on a folder.
image, _ = data[0]
labels, scores = larger.predict(image, scores=True)
print(labels.shape, {larger.names[i]: int((labels == i).sum()) for i in np.unique(labels)})
print({name: iou and round(iou, 3) for name, iou in larger.evaluate(new).items()})

# %% A copy, for the command line or another machine: css predict add-a-class/shipped IMAGE.png
if not (HOME / "shipped").exists():
    larger.save(HOME / "shipped")
