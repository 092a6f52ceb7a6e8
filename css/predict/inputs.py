"""What a user names on the command line: image files, folders, globs, videos, a camera."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tasks import InputError

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


@dataclass(frozen=True)
class Item:
    """One image file or video; its outputs are named after `stem`, which may have folders."""

    source: Path | int  # an int is a camera
    stem: str

    @property
    def moving(self) -> bool:
        """Is it a video or a camera?"""
        return isinstance(self.source, int) or self.source.suffix.lower() in VIDEOS


def find_items(inputs: Sequence[str]) -> list[Item]:
    """All that is named, in order. Folders are searched to their depth; their outputs keep the sub-folders.

    Raises InputError for what does not exist, for folders and globs without an image, and for two items whose outputs
    would have one name.
    """
    items = [item for name in inputs for item in named(name)]
    if not items:
        raise InputError("css predict needs at least one image, folder, glob, video or camera index after the model.")
    seen: dict[str, Item] = {}
    for item in items:
        if item.stem in seen:
            raise InputError(
                f"{seen[item.stem].source} and {item.source} have the same name, and so would their masks; take one at "
                "a time."
            )
        seen[item.stem] = item
    return items


def named(name: str) -> Iterator[Item]:
    """What a file, folder, glob or number stands for. Raises InputError if that is nothing."""
    path = Path(name)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES | VIDEOS)
        if not found:
            raise InputError(f"{path} holds no image and no video; name another folder.")
        yield from (Item(file, str(file.relative_to(path).with_suffix(""))) for file in found)
    elif path.exists():
        yield Item(path, path.stem)
    elif name.isdigit():
        yield Item(int(name), f"camera_{name}")
    elif glob.has_magic(name):
        files = [Path(file) for file in sorted(glob.glob(name, recursive=True)) if Path(file).is_file()]  # noqa: PTH207
        if not files:
            raise InputError(f"Nothing matches {name}; check the pattern.")
        yield from (Item(file, file.stem) for file in files)
    else:
        raise InputError(f"{path} does not exist; check the path.")


class Video:
    """The frames of a video file or a camera, uint8 RGB (H, W, 3)."""

    def __init__(self, item: Item) -> None:
        source = item.source if isinstance(item.source, int) else str(item.source)
        self.name, self.capture = item.source, cv2.VideoCapture(source)
        self.rate = self.capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.length = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # 0 where it is not known

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises InputError if there is no frame at all."""
        count = 0
        try:
            while True:
                there, frame = self.capture.read()
                if not there:
                    break
                count += 1
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self.capture.release()
        if not count:
            raise InputError(f"{self.name} has no frame that can be read; check the file or the camera.")
