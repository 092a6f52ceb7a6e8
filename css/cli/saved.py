"""The commands beside `css run`. Their parameters are the options of the command line."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from css.analysis.bounds import bounds_table, upper_bounds
from css.analysis.draw import draw_increase
from css.analysis.task import Analysis, analysis_table, require_classes, require_fused
from css.kinds.choice import kind_of
from css.report.choice import scores_of
from css.report.results import read_results
from css.run.saved import config_of, finished_task, load_model, open_run
from css.system.files import write_json
from css.system.processes import Processes
from css.training.evaluate import evaluate as evaluate_task
from tasks import InputError


def evaluate(run: tyro.conf.Positional[Path], /, task: int | None = None, data_root: Path | None = None,
             geometry: Literal["crop", "whole"] | None = None) -> None:  # fmt: skip
    """Tests a saved task again; without other options it gives exactly the numbers of the training run.

    Args:
        run: Run folder.
        task: Task to test; default: the last finished one.
        data_root: Folder of the data set, if it has moved.
        geometry: Centre crops or whole images (label maps only); default: as in the run.
    """
    config, stream = open_run(run, data_root)
    if geometry:
        kind_of(config.dataset).require_masks("css evaluate --geometry")
        config = dataclasses.replace(config, evaluation=geometry)
    index = finished_task(run, task)
    processes = Processes.join()
    confusion = evaluate_task(load_model(run, config, index, processes), stream.task(index), config, processes)
    if processes.is_main:
        scores = scores_of(config.dataset)
        result = scores.task_result(stream.task(index), confusion, read_results(run)["protocol_groups"])
        print(f"{run}, task {index}, {config.evaluation}, in %\n\n{scores.score_table(result)}")


def analyse(runs: tyro.conf.Positional[tuple[Path, ...]], /, task: int | None = None, data_root: Path | None = None,
            images: int = 200, recogniser: Path | None = None, bounds: bool = False) -> None:  # fmt: skip
    """What Split2MetaFusion did in a task: its models on real test images, dreams, gates, loss landscape (PNG, JSON).

    With --bounds, of a finished run of any method: what classifiers reach on its network when they are trained on all
    images with all labels, on the decoder's features and on hypercolumns.

    Args:
        runs: Run folders of BASE+s2mf; RUN/analysis/ is written in each, a comparison of all in that of the first.
        task: Task to look at; default: the last finished one.
        data_root: Folder of the data set, if it has moved.
        images: At most so many test images.
        recogniser: Run folder of an independent network, which is shown the dreams.
        bounds: Upper bounds in place of all else.
    """
    if not runs or images < 1:
        raise InputError("css analyse needs a run folder, and --images must be at least 1.")
    if bounds:
        _bounds(runs, data_root)
        return
    increases, processes, judge = {}, Processes.join(), None
    if recogniser:
        judge = load_model(recogniser, config_of(recogniser), finished_task(recogniser, None), processes)
    for run in runs:
        index = finished_task(run, task)
        require_fused(run, index)
        config, stream = open_run(run, data_root)
        kind_of(config.dataset).require_masks("css analyse")
        old, fused = (load_model(run, config, number, processes) for number in (index - 1, index))
        if judge and recogniser:
            require_classes(judge, fused, stream.source.class_names, recogniser)
        found = Analysis(run, stream.task(index), old, fused, config, processes).measure(images, judge)
        increases[f"{run.name}, task {index}"] = found["increase"]
        print(f"{run}, task {index}, at most {images} test images\n\n{analysis_table(found)}\n")
    draw_increase(runs[0] / "analysis" / "increase.png", increases)
    print(f"Pictures and numbers in {', '.join(str(run / 'analysis') for run in runs)}")


def _bounds(runs: tuple[Path, ...], data_root: Path | None) -> None:
    processes = Processes.join()
    for run in runs:
        index = finished_task(run, None)
        config, stream = open_run(run, data_root)
        kind_of(config.dataset).require_masks("css analyse --bounds")
        if index < len(stream) - 1:
            raise InputError(f"{run} is not finished: css analyse --bounds needs a network that knows all classes.")
        found = upper_bounds(stream, load_model(run, config, index, processes), config, processes)
        write_json(run / "analysis" / "bounds.json", found)
        print(f"{run}, in %\n\n{bounds_table(found)}\n")
