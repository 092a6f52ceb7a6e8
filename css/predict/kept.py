"""Probabilities of a large image, kept on disk while its tiles are seen."""

import tempfile
from pathlib import Path

import numpy as np

from css.system.files import writing


class KeptScores:
    """Float16 (C, H, W) in a file without a name, written some rows at a time: it is gone with this object.

    Written as a file and not through a memory map, where a full disk would be a signal and no error. Raises InputError
    if the folder cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # open as long as the object is

    def write(self, top: int, sums: np.ndarray) -> None:
        """Rows from `top` on: weighted sums of probabilities, float32 (C, rows, W), which are made to add up to one."""
        _, height, width = self.shape
        total = sums.sum(0)
        with writing(self.folder):
            for channel, values in enumerate(sums):
                self.file.seek(2 * (channel * height + top) * width)
                self.file.write((values / total).astype(np.float16).tobytes())

    def read(self) -> np.ndarray:
        """All of them, as a memory map."""
        with writing(self.folder):
            self.file.flush()
        return np.memmap(self.file, np.float16, "r", shape=self.shape)
