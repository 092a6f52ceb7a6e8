"""What is written for every image, and once for all of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from css.predict.polygons import Polygon, coco, labelme, polygons
from css.report.overlay import class_pixels, draw_overlay
from css.report.text import comma_separated
from css.system.files import atomic, write_json, write_text
from tasks import InputError

Save = Literal["mask", "ids", "overlay", "scores", "coco", "labelme", "csv"]
OF_EACH: dict[str, str] = {
    "mask": "_mask.png", "ids": "_ids.png", "overlay": "_overlay.png", "scores": "_scores.npz", "labelme": ".json",
}  # fmt: skip
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # photographs become no smaller with more


@dataclass
class Outputs:
    """Writes the chosen outputs into a folder.

    mask: class ids as a palette PNG; ids: as a grey PNG; overlay: the photograph with contours and names; scores: the
    probabilities as the network gave them; labelme: polygons of one image; coco: polygons of all (coco.json); csv:
    shares of the area (summary.csv).
    """

    folder: Path
    save: Sequence[Save]
    classes: list[int]
    names: list[str]
    palette: np.ndarray  # uint8 (256, 3), of the mask
    areas: dict[str, tuple[int, int, np.ndarray]] = field(default_factory=dict)  # by image: height, width, pixels by id
    regions: dict[str, tuple[int, int, list[Polygon]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = {class_id: self.names[class_id] for class_id in sorted(self.classes)}

    def paths(self, stem: str) -> list[Path]:
        """What is written for one image."""
        return [self.folder / f"{stem}{ending}" for kind, ending in OF_EACH.items() if kind in self.save]

    def write(self, stem: str, image: np.ndarray, mask: np.ndarray, scores: np.ndarray | None, source: Path) -> None:
        """The outputs of one image, uint8 (H, W, 3), with its mask and probabilities."""
        if "mask" in self.save:
            picture = Image.fromarray(mask)
            picture.putpalette(self.palette.tobytes())
            with atomic(self._path(stem, "mask")) as temporary:
                picture.save(temporary, format="png")
        if "ids" in self.save:
            _write_png(self._path(stem, "ids"), mask)
        if "overlay" in self.save:
            drawn = draw_overlay(image, mask, self.names)
            for row in drawn:  # in place, row by row: a copy of a large image is large
                row[:] = row[:, ::-1]
            _write_png(self._path(stem, "overlay"), drawn)
        if "scores" in self.save and scores is not None:
            with atomic(self._path(stem, "scores")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, scores=scores.astype(np.float16, copy=False), class_ids=self.classes,
                                    class_names=[self.names[c] for c in self.classes])  # fmt: skip
        self.collect(stem, mask, source)

    def collect(self, stem: str, mask: np.ndarray, source: Path) -> None:
        """What the files about all images need of one."""
        height, width = mask.shape
        if "csv" in self.save:
            self.areas[str(source)] = height, width, class_pixels(mask)
        if {"coco", "labelme"} & set(self.save):
            found = list(polygons(mask))
            if "coco" in self.save:
                self.regions[str(source)] = height, width, found
            if "labelme" in self.save:
                path = self._path(stem, "labelme")
                image = os.path.relpath(source, path.parent)
                write_json(path, labelme(image, height, width, found, self.known))

    def stored_mask(self, stem: str) -> np.ndarray:
        """The class ids that an earlier call has written."""
        kind = "mask" if "mask" in self.save else "ids"
        with Image.open(self._path(stem, kind)) as picture:
            return np.array(picture)

    def finish(self, order: Sequence[str]) -> None:
        """The files about all images, in the order of their names; others come last."""
        rank = {name: number for number, name in enumerate(order)}

        def place(fact: tuple[str, Any]) -> int:
            return rank.get(fact[0], len(rank))

        if "csv" in self.save:
            header = ["image", "height", "width", *(f"{name} (%)" for name in self.known.values())]
            rows = [
                [image, str(height), str(width), *(f"{100 * counts[c] / (height * width):.4f}" for c in self.known)]
                for image, (height, width, counts) in sorted(self.areas.items(), key=place)
            ]
            write_text(self.folder / "summary.csv", comma_separated(header, rows))
        if "coco" in self.save:
            found = [(image, *facts) for image, facts in sorted(self.regions.items(), key=place)]
            objects = {class_id: name for class_id, name in self.known.items() if class_id}
            write_json(self.folder / "coco.json", coco(found, objects))

    def _path(self, stem: str, kind: str) -> Path:
        return self.folder / f"{stem}{OF_EACH[kind]}"


class VideoWriter:
    """Overlays of the frames of a video as an MP4 file, which appears when it is complete."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.writer: cv2.VideoWriter | None = None
        self.frames = 0
        self.temporary = path.with_name(f".{path.stem}.partial.mp4")

    def write(self, frame: np.ndarray) -> None:
        """The next frame, uint8 RGB (H, W, 3)."""
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = frame.shape[1], frame.shape[0]
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
            if not self.writer.isOpened():
                raise InputError(f"Cannot write {self.path}; choose another folder (--out).")
        self.writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        self.frames += 1

    def close(self) -> None:
        """Ends the file; nothing is there if there was no frame. Raises InputError if frames are missing in it."""
        if self.writer is None:
            return
        self.writer.release()
        written = cv2.VideoCapture(str(self.temporary)).get(cv2.CAP_PROP_FRAME_COUNT)
        if written < self.frames:  # OpenCV says nothing of a full disk
            self.temporary.unlink(missing_ok=True)
            raise InputError(f"Cannot write {self.path} completely; free some space or choose another folder (--out).")
        self.temporary.replace(self.path)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic(path) as temporary:
        picture = temporary.with_suffix(".png")  # OpenCV asks for it; of bytes it would hold one more copy
        try:
            if not cv2.imwrite(str(picture), np.ascontiguousarray(pixels), _FAST):
                raise OSError("it cannot be written completely")
            picture.replace(temporary)
        finally:
            picture.unlink(missing_ok=True)
