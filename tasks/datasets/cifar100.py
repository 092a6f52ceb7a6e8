"""CIFAR-100 (Krizhevsky, 2009) in its official *binary* version: plain bytes, where the Python version is a pickle."""

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.download import content_of, disk_errors, download
from tasks.datasets.image_labels import ImageLabels
from tasks.errors import InputError

FOLDER = "cifar-100-binary"
FILES = {"train": "train.bin", "test": "test.bin"}
NAMES = "fine_label_names.txt"
COUNTS = {"train": 50_000, "test": 10_000}
RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, then the red, green and blue plane
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"


class Cifar100(ImageLabels):
    """Images of 32 x 32 pixels; raw class id = fine label + 1. `root` holds the official files, or their folder.

    Raises InputError if a file is absent, truncated or holds other numbers than labels.
    """

    name = "cifar100"

    def __init__(self, root: Path) -> None:
        folder = _locate(Path(root))
        class_names = (folder / NAMES).read_text(encoding="utf-8").split()
        records = {split: _read(folder / file, COUNTS[split], len(class_names)) for split, file in FILES.items()}
        super().__init__({split: found[:, 1] + 1 for split, found in records.items()}, ["", *class_names])
        self._pixels = {
            split: found[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for split, found in records.items()
        }
        self._digest = hashlib.sha256(b"".join(hashlib.sha256(found.data).digest() for found in records.values()))

    def image(self, split: str, index: int) -> np.ndarray:
        """RGB image uint8 (32, 32, 3)."""
        return np.ascontiguousarray(self._pixels[split][index])

    def fingerprint(self) -> str:
        """Hex digest of all bytes of both splits."""
        return self._digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digest": None}  # a digest in the making cannot be sent to a worker


def prepare(root: Path, url: str = URL, md5: str = MD5) -> None:
    """Downloads, checks and unpacks the archive; does nothing if its files are there in full length.

    Raises InputError if the download fails or has the wrong checksum, or if the archive lacks a file.
    """
    target = root / FOLDER
    if all((target / file).is_file() and (target / file).stat().st_size == COUNTS[s] * RECORD
           for s, file in FILES.items()) and (target / NAMES).is_file():  # fmt: skip
        print(f"{root} already holds CIFAR-100; nothing to do.")
        return
    with disk_errors(root, "400 MB"):
        archive = download(url, md5, root / "downloads")
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "r:gz") as tar:
            for name in (NAMES, *FILES.values()):
                try:
                    content = content_of(tar, f"{FOLDER}/{name}")
                except KeyError:
                    raise InputError(
                        f"archive {archive} holds no {FOLDER}/{name}: replace it by the official archive."
                    ) from None
                (target / name).write_bytes(content)
    print(f"{target} is ready. {archive} may be deleted.")


def _locate(root: Path) -> Path:
    """The folder at or below root that holds the three files."""
    for folder in (root / FOLDER, root):
        if all((folder / name).is_file() for name in (NAMES, *FILES.values())):
            return folder
    raise InputError(
        f"{root} holds no {FOLDER} with {', '.join(FILES.values())} and {NAMES}: get it with "
        f"`css prepare cifar100 --data-root {root}`, or unpack the official cifar-100-binary.tar.gz there (the binary "
        "version: the Python version is a pickle, which this program does not read)."
    )


def _read(path: Path, count: int, classes: int) -> np.ndarray:
    """Records, uint8 (count, RECORD)."""
    content = np.fromfile(path, np.uint8)
    if len(content) != count * RECORD:
        raise InputError(
            f"{path} has {len(content)} bytes instead of {count * RECORD}: delete it and run `css prepare cifar100`."
        )
    records = content.reshape(count, RECORD)
    if records[:, 1].max() >= classes:
        raise InputError(
            f"{path} holds the label {records[:, 1].max()}, but there are {classes} classes: delete it and run "
            "`css prepare cifar100`."
        )
    return records
