"""TinyImageNet (Wu, Zhang and Xu, 2017) in its official folders: 200 classes, images of 64 x 64 pixels."""

import hashlib
import os
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from tasks.datasets.download import disk_errors, download
from tasks.datasets.image_labels import ImageLabels
from tasks.errors import InputError
from tasks.reading import open_image

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


class TinyImageNet(ImageLabels):
    """train is train/, test is val/ (the official test images have no labels). Classes are in the order of their ids.

    `root` holds wnids.txt, words.txt, train and val, or the folder tiny-imagenet-200 that does. Raises InputError if a
    file, a class or its images are missing; an image is only decoded, and found to be damaged, when it is needed.
    """

    name = "tiny-imagenet"

    def __init__(self, root: Path) -> None:
        self._root = _locate(Path(root))
        classes = sorted(_lines(self._root / "wnids.txt"))
        numbers = {wnid: number for number, wnid in enumerate(classes, 1)}
        items = {"train": _training_images(self._root, classes), "test": _test_images(self._root, numbers)}
        if absent := set(classes) - {wnid for _, wnid in items["test"]}:
            raise InputError(f"{self._root / 'val'} has no image of class {min(absent)}: unpack the official archive.")
        labels = {split: np.array([numbers[wnid] for _, wnid in found]) for split, found in items.items()}
        super().__init__(labels, ["", *_names(self._root / "words.txt", classes)])
        self._paths = {split: [path for path, _ in found] for split, found in items.items()}

    def image(self, split: str, index: int) -> np.ndarray:
        """RGB image uint8 (H, W, 3). InputError if the file cannot be decoded."""
        return np.array(open_image(self._root / self._paths[split][index]))

    def image_id(self, split: str, index: int) -> str:
        """Name of the image file without its ending."""
        return PurePosixPath(self._paths[split][index]).stem

    def fingerprint(self) -> str:
        """Hex digest of names, labels and sizes in bytes of all images."""
        digest = hashlib.sha256()
        for split, paths in self._paths.items():
            for path, label in zip(paths, self.labels[split], strict=True):
                digest.update(f"{path}\0{label}\0{(self._root / path).stat().st_size}\0".encode())
        return digest.hexdigest()


def prepare(root: Path, url: str = URL, md5: str = MD5) -> None:
    """Downloads, checks and unpacks the archive; does nothing if the data set is there already.

    Raises InputError if the download fails or has the wrong checksum, or if the archive is not the data set.
    """
    try:
        _locate(root)
    except InputError:
        pass
    else:
        print(f"{root} already holds TinyImageNet; nothing to do.")
        return
    with disk_errors(root, "1 GB"):
        archive = download(url, md5, root / "downloads")
        with zipfile.ZipFile(archive) as zipped:  # its extract() keeps every path below root
            members = sorted(
                zipped.namelist(), key=lambda name: PurePosixPath(name).name == "wnids.txt"
            )  # this one last
            for member in tqdm(members, "unpacking", unit="file", disable=None):
                zipped.extract(member, root)
    _locate(root)
    print(f"{root / FOLDER} is ready. {archive} may be deleted.")


def _locate(root: Path) -> Path:
    parts = ("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images")
    missing = {folder: [part for part in parts if not (folder / part).exists()] for folder in (root / FOLDER, root)}
    folder = min(missing, key=lambda candidate: len(missing[candidate]))
    if missing[folder]:
        raise InputError(
            f"{root} holds no TinyImageNet ({folder} lacks {', '.join(missing[folder])}): get it with "
            f"`css prepare tiny-imagenet --data-root {root}`, or unpack the official tiny-imagenet-200.zip there."
        )
    return folder


def _training_images(root: Path, classes: list[str]) -> list[tuple[str, str]]:
    """(path, class) of every training image, in a fixed order."""
    found = []
    for wnid in classes:
        folder = root / "train" / wnid / "images"
        files = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        if not files:
            raise InputError(f"{folder} has no image of class {wnid}: unpack the official archive again.")
        found += [(f"train/{wnid}/images/{file}", wnid) for file in files]
    return found


def _test_images(root: Path, numbers: dict[str, int]) -> list[tuple[str, str]]:
    path = root / "val" / "val_annotations.txt"
    found = []
    for number, line in enumerate(_lines(path), 1):
        words = line.split("\t")
        if len(words) < 2 or words[1] not in numbers:
            raise InputError(f"line {number} of {path} names no image and class: unpack the official archive again.")
        found.append((f"val/images/{words[0]}", words[1]))
        if not (root / found[-1][0]).is_file():
            raise InputError(
                f"{root / found[-1][0]} is missing, but {path} names it: unpack the official archive again."
            )
    return found


def _names(path: Path, classes: list[str]) -> list[str]:
    """The first word for each class; where two classes share it, with the id."""
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in classes]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, classes, strict=True)]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
