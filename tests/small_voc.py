"""A small data set in VOC's layout and the smallest setting, for tests that call the program as a user does."""

import contextlib
import io
import json
import os
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from css.cli.main import main
from tasks.datasets.shapes import render
from tasks.datasets.voc import CLASS_NAMES, IMAGES, LISTS, MASKS, voc_palette
from tasks.source import VOID

CLASSES = 3  # of the 20; the shapes are spread over these
CROP = 64
TINY = 32  # pixels of a picture in a report which no test looks at
COUNTS = {"train": 40, "test": 12}
SETTING = [
    "--classes", *CLASS_NAMES[1 : CLASSES + 1], "--model.encoder", "tu-test_resnet", "--model.encoder-weights", "none",
    "--train.crop", str(CROP), "--train.batch", "8", "--train.workers", "0", "--train.epochs", "1",
    "--train.bn-group", "None", "--train.precision", "fp32", "--method", "plop",
]  # fmt: skip


# One slow and one fast epoch, a handful of small dreams: enough to see every stage at work.
QUICK_S2MF = [
    "--train.later-epochs", "2", "--options.fast-share", "0.5", "--options.dream.count", "8",
    "--options.dream.batch", "4", "--options.dream.steps", "2", "--options.fuse.steps", "2",
    "--options.statistics.batches", "3", "--options.projector", "tpnsp", "--options.no-align",
]  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The only line the program itself wrote on stderr before it gave up; progress bars aside."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip()]
        ours = [line for line in lines if line.startswith("css: ")]
        assert len(ours) == 1 and ours[0] == lines[-1], self.err
        return ours[0]


def css(*arguments: object) -> Outcome:
    """Calls the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # tyro's way to say that an option is unknown
            code = stop.code
    return Outcome(code, out.getvalue(), err.getvalue())


def run_arguments(data: Path, runs: Path, name: str, *options: object, protocol: str = "1-1") -> list[str]:
    """A `css run` in the smallest setting; options given twice count as given last."""
    start = ["run", "voc", protocol, "--data-root", data, "--runs", runs, "--name", name]
    return [str(argument) for argument in [*start, *SETTING, *options]]


@contextlib.contextmanager
def plain_machine(cache: Path) -> Iterator[None]:
    """One process with one thread on the CPU, whatever the environment says; the cache lies in a folder of the test.

    One thread, so that numbers are the same to the last bit in every process, and because the nets are tiny.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that a test starts
        slurm = [name for name in os.environ if name.startswith("SLURM_")]
        for variable in ("GPUS", "DATA_ROOT", "RANK", "WORLD_SIZE", "LOCAL_RANK", *slurm):
            patch.delenv(variable, raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        torch.set_num_threads(1)
        yield


@contextlib.contextmanager
def picture_side(pixels: int = TINY) -> Iterator[None]:
    """The pictures of reports have this size: drawn, encoded and embedded as ever, but with fewer pixels for less time.

    Whoever looks at them asks for `css.report.pictures.SIDE`; for all others the tests have tiny ones (see conftest).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("css.report.pictures.SIDE", pixels)
        yield


def write_small_voc(root: Path) -> Path:
    """JPEGs of several sizes, palette masks with ids 0 to 3 and 255, and both lists."""
    for folder in (IMAGES, MASKS, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in COUNTS.items():
        names = [f"{split}_{index:03d}" for index in range(count)]
        for index, name in enumerate(names):
            image, mask = render(80, 0, split, index)
            height, width = 80 - 2 * (index % 3), 80 - 5 * (index % 2)
            write_pair(root, name, image[:height, :width], few_classes(mask)[:height, :width])
        (root / LISTS[split]).write_text("\n".join(names) + "\n")
    return root


def read_results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def after_first_task(run: Path, copy: Path) -> Path:
    """Makes a copy of a finished run as it was when its first task had just ended, to be killed in a later one."""
    copy.mkdir(parents=True)
    for name in ("config.yaml", "log.jsonl"):
        shutil.copy(run / name, copy)
    os.truncate(copy / "log.jsonl", read_results(run)["tasks"][0]["log_bytes"])
    shutil.copytree(run / "task_0", copy / "task_0")
    return copy


def few_classes(mask: np.ndarray) -> np.ndarray:
    """Ids 1 to 20 become 1 to 3; background and void stay."""
    return np.where((mask == 0) | (mask == VOID), mask, (mask - 1) % CLASSES + 1).astype(np.uint8)


def write_pair(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    Image.fromarray(image).save(root / IMAGES / f"{name}.jpg", quality=92)
    picture = Image.fromarray(mask)
    picture.putpalette(voc_palette().tobytes())
    picture.save(root / MASKS / f"{name}.png")


def masks_of(root: Path, split: str) -> list[np.ndarray]:
    """The masks of a split as they lie on disk, read without the program."""
    return [np.array(Image.open(root / MASKS / f"{name}.png")) for name in (root / LISTS[split]).read_text().split()]


class Killed(BaseException):
    """What a test raises to end a run as a signal would."""


def kill_at(function, calls):
    """A stand-in for the function of this dotted name: its call of this number raises Killed instead."""
    original, count = pkgutil.resolve_name(function), iter(range(1, calls))

    def counting(*arguments, **keywords):
        if next(count, None) is None:
            raise Killed
        return original(*arguments, **keywords)

    return counting
