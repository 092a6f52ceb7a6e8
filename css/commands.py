"""The commands beside `css run`. Their parameters are the options of the command line."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import tyro
from tqdm import tqdm

from css import config as settings
from css.analyse import Analysis, analysis_table, require_classes, require_fused
from css.analysis_pictures import draw_increase
from css.data import make_stream
from css.evaluate import evaluate as evaluate_task
from css.evaluate import predict as predict_channels
from css.jobs import default_jobs, run_cell, run_cells
from css.kinds import kind_of
from css.method import METHODS, WRAPPERS, method_class
from css.model import Segmenter
from css.pictures import write_png
from css.processes import Processes
from css.recipe import Cell, make_cells, read_recipe
from css.record import finished_records, require_agreement, require_report
from css.report import run_table
from css.results import read_results, read_task_result
from css.run import load_task, task_folder
from css.table import write_table
from tasks import InputError, Stream, cifar100, tiny_imagenet
from tasks.images import WholeImage
from tasks.prepare_voc import prepare as prepare_voc
from tasks.presence import open_image
from tasks.voc import voc_palette


def table(recipe: tyro.conf.Positional[Path], /, data_root: Path | None = None, runs: Path = Path("runs"),
          epochs: int | None = None, jobs: int | None = None, cell: str | None = None) -> int:  # fmt: skip
    """Runs every cell of a recipe that is not finished, then writes one table: Markdown, CSV, LaTeX, pictures.

    Args:
        recipe: YAML file, see recipes/.
        data_root: Folder of the data set; default: $DATA_ROOT, else ./data.
        runs: Folder of all run folders.
        epochs: Epochs of every task instead of those of the recipe.
        jobs: Cells that run at the same time, each in one process; default: the number of GPUs, else 1. With 1, GPUS=n
            sets the number of processes of a cell.
        cell: Run this cell alone (the name of its run folder) and write no table.
    """
    for name, value in (("epochs", epochs), ("jobs", jobs)):
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1.")
    plan = read_recipe(recipe)
    cells = make_cells(plan, recipe, runs, data_root, epochs)
    if cell is not None:
        run_cell(_named(cells, cell, recipe), cells, Processes.join())
        return 0
    if "RANK" in os.environ:
        raise InputError("css table starts the processes of its cells itself: call it without torchrun.")
    require_agreement(cells)
    passed_on = {"--data-root": data_root, "--runs": runs, "--epochs": epochs}
    options = [text for flag, value in passed_on.items() if value for text in (flag, str(value))]
    failures = run_cells(
        cells, set(finished_records(cells)), jobs or default_jobs(),
        lambda cell: ["table", str(recipe), *options, "--cell", cell.name],
    )  # fmt: skip
    require_agreement(cells)
    print(write_table(plan, cells, finished_records(cells), runs / recipe.stem))
    for name, sentence in failures.items():
        print(f"{name} failed: {sentence}", file=sys.stderr)
    if failures:
        print(f"css: {len(failures)} of {len(cells)} cells failed; call again to resume them.", file=sys.stderr)
    return 1 if failures else 0


def evaluate(run: tyro.conf.Positional[Path], /, task: int | None = None, data_root: Path | None = None,
             geometry: Literal["crop", "whole"] | None = None) -> None:  # fmt: skip
    """Tests a saved task again; without other options it gives exactly the numbers of the training run.

    Args:
        run: Run folder.
        task: Task to test; default: the last finished one.
        data_root: Folder of the data set, if it has moved.
        geometry: Centre crops or whole images (label maps only); default: as in the run.
    """
    config, stream = _open_run(run, data_root)
    if geometry:
        kind_of(config.dataset).require_masks("css evaluate --geometry")
        config = dataclasses.replace(config, evaluation=geometry)
    index = _finished_task(run, task)
    processes = Processes.join()
    confusion = evaluate_task(_load_model(run, config, index, processes), stream.task(index), config, processes)
    if processes.is_main:
        kind = kind_of(config.dataset)
        result = kind.task_result(stream.task(index), confusion, read_results(run)["protocol_groups"])
        print(f"{run}, task {index}, {config.evaluation}, in %\n\n{kind.score_table(result)}")


def analyse(runs: tyro.conf.Positional[tuple[Path, ...]], /, task: int | None = None, data_root: Path | None = None,
            images: int = 200, recogniser: Path | None = None) -> None:  # fmt: skip
    """What Split2MetaFusion did in a task: its models on real test images, dreams, gates, loss landscape (PNG, JSON).

    Args:
        runs: Run folders of BASE+s2mf; RUN/analysis/ is written in each, a comparison of all in that of the first.
        task: Task to look at; default: the last finished one.
        data_root: Folder of the data set, if it has moved.
        images: At most so many test images.
        recogniser: Run folder of an independent network, which is shown the dreams.
    """
    if not runs or images < 1:
        raise InputError("css analyse needs a run folder, and --images must be at least 1.")
    increases, processes, judge = {}, Processes.join(), None
    if recogniser:
        judge = _load_model(recogniser, _config_of(recogniser), _finished_task(recogniser, None), processes)
    for run in runs:
        index = _finished_task(run, task)
        require_fused(run, index)
        config, stream = _open_run(run, data_root)
        kind_of(config.dataset).require_masks("css analyse")
        old, fused = (_load_model(run, config, number, processes) for number in (index - 1, index))
        if recogniser:
            require_classes(judge, fused, stream.source.class_names, recogniser)
        found = Analysis(run, stream.task(index), old, fused, config, processes).measure(images, judge)
        increases[f"{run.name}, task {index}"] = found["increase"]
        print(f"{run}, task {index}, at most {images} test images\n\n{analysis_table(found)}\n")
    draw_increase(runs[0] / "analysis" / "increase.png", increases)
    print(f"Pictures and numbers in {', '.join(str(run / 'analysis') for run in runs)}")


def predict(run: tyro.conf.Positional[Path], images: tyro.conf.Positional[tuple[Path, ...]], /, task: int | None = None,
            out: Path = Path("predictions")) -> None:  # fmt: skip
    """Segments your own images: a palette mask (raw class ids) and an overlay for each.

    Args:
        run: Run folder.
        images: Image files.
        task: Which task's model; default: the last finished one.
        out: Folder for IMAGE_mask.png and IMAGE_overlay.png.
    """
    if not images:
        raise InputError("css predict needs at least one image file after the run folder.")
    if len({path.stem for path in images}) < len(images):
        raise InputError("css predict: two images have the same name, and so would their masks; take one at a time.")
    config = _config_of(run)
    kind_of(config.dataset).require_masks("css predict")
    index, processes = _finished_task(run, task), Processes.join()
    model, palette = _load_model(run, config, index, processes), voc_palette()
    for path in tqdm(images, unit="image"):
        pixels = np.array(open_image(path))
        height, width = pixels.shape[:2]
        padded, _ = WholeImage()(pixels, np.zeros((height, width), np.uint8))
        channels = predict_channels(model, torch.from_numpy(padded).permute(2, 0, 1)[None], config, processes)
        mask = np.array(model.classes, np.uint8)[channels[0, :height, :width].cpu().numpy()]
        write_png(out / f"{path.stem}_overlay.png", cv2.addWeighted(pixels, 0.5, palette[mask], 0.5, 0))
        write_png(out / f"{path.stem}_mask.png", mask, palette)
    print(f"{len(images)} masks and overlays in {out}")


def report(runs: tyro.conf.Positional[tuple[Path, ...]], /) -> None:
    """Prints the tables of runs, finished or not, from their results.json alone.

    Args:
        runs: Run folders, or folders of run folders.
    """
    found = [file.parent for folder in runs for file in sorted(folder.rglob("results.json"))]
    if not found:
        raise InputError(f"No results.json in or below {', '.join(map(str, runs)) or 'nothing'}; name a run folder.")
    for run in found:
        require_report(run)
    print("\n".join(run_table(read_results(run)) for run in found))


def prepare(
    dataset: tyro.conf.Positional[Literal["voc", "cifar100", "tiny-imagenet"]], /, data_root: Path | None = None
) -> None:
    """Downloads, checks and builds a data set.

    Args:
        dataset: voc (VOC 2012 with the augmented masks, about 3.5 GB of downloads), cifar100 (160 MB) or tiny-imagenet
            (240 MB).
        data_root: Where to; default: $DATA_ROOT, else ./data.
    """
    prepared = {"voc": prepare_voc, "cifar100": cifar100.prepare, "tiny-imagenet": tiny_imagenet.prepare}
    prepared[dataset](settings.data_root(data_root))


def list_all() -> None:
    """Data sets and methods."""
    print("Data sets: " + ", ".join(settings.PRESETS))
    print("Methods:")
    for name in METHODS:
        print(f"  {name:11} {method_class(name).summary}")
    print("Around one of them, for example plop (+s2mf and +replay: one that learns by its losses alone):")
    for name in WRAPPERS:
        print(f"  {f'plop+{name}':11} {method_class(f'plop+{name}').summary}")


def _named(cells: list[Cell], name: str, recipe: Path) -> Cell:
    for cell in cells:
        if cell.name == name:
            return cell
    raise InputError(f"--cell {name} is not in {recipe}; its cells are {', '.join(cell.name for cell in cells)}.")


def _config_of(run: Path, data_root: Path | None = None) -> settings.RunConfig:
    """The configuration of a run folder, wherever the folder lies now."""
    values = settings.read(run)
    try:
        return settings.from_dict(values, str(run / settings.FILE), runs=run.parent, name=run.name,
                                  **({"data_root": data_root} if data_root else {}))  # fmt: skip
    except KeyError as error:
        raise InputError(f"{run / settings.FILE} lacks {error}; name a run folder made by this program.") from None


def _open_run(run: Path, data_root: Path | None) -> tuple[settings.RunConfig, Stream]:
    config = _config_of(run, data_root)
    stream = make_stream(config)
    if stream.source.fingerprint() != read_results(run)["data_fingerprint"]:
        raise InputError(f"The data at {settings.data_root(config.data_root)} is not what {run} was made with.")
    return config, stream.joint() if method_class(config.method).joint else stream


def _finished_task(run: Path, task: int | None) -> int:
    finished = len(read_results(run)["tasks"])
    if task is None:
        return finished - 1
    if not 0 <= task < finished:
        raise InputError(f"--task {task} is not finished in {run}; it has the tasks 0 to {finished - 1}.")
    return task


def _load_model(run: Path, config: settings.RunConfig, index: int, processes: Processes) -> Segmenter:
    model = kind_of(config.dataset).build(config, read_results(run)["protocol_groups"], pretrained=False)
    model = model.to(processes.device, memory_format=torch.channels_last)
    for earlier in range(index + 1):
        model.grow(read_task_result(task_folder(run, earlier))["new_classes"])
    load_task(task_folder(run, index), model)
    return model
