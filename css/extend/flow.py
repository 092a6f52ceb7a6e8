"""The whole flow of an extension: from a model and images of new classes to a run folder that has learnt them."""

import dataclasses
import filecmp
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from css.config.files import CONFIG_FILE, as_dict, save_config
from css.extend.plan import Plan, path_of, plan
from css.extend.request import Request
from css.extend.scores import class_scores
from css.extend.statistics import take_statistics, told
from css.extend.table import extension_table
from css.method.registry import make_method
from css.model.segmenter import Segmenter
from css.report.pictures import PREDICTIONS, chosen_images, save_predictions
from css.report.results import read_results, read_task_result, write_results
from css.run.facts import run_facts
from css.run.flow import complete
from css.run.folder import MODEL, is_complete, is_dropped, load_task, require_same_run, task_folder, work_folder
from css.run.saved import load_model
from css.system.files import atomic, write_text
from css.system.log import Log
from css.system.processes import Processes
from css.training.trainer import Trainer
from tasks import InputError
from tasks.palette import palette_of

TABLE = "extend.md"


def extend(request: Request, processes: Processes) -> dict[str, Any]:
    """Learns the new classes and returns the results; goes on where a killed extension was.

    Raises InputError for anything a user can mend; nothing is written before settings and data are checked.
    """
    made = plan(request, processes.world)
    folder = made.config.folder
    processes.first(lambda: _require_same(made))
    if not _is_done(made):
        processes.first(lambda: _open(made))
        _learn(made, processes)
    if processes.is_main:
        print((folder / TABLE).read_text(encoding="utf-8"), flush=True)
        print(f"The model is in {folder}; {task_folder(folder, made.index) / 'pictures.png'} shows before and after.")
    return read_results(folder)


def _is_done(made: Plan) -> bool:
    """Whether the classes are learnt, and the old ones tested as is asked for now."""
    folder, wanted = made.config.folder, made.request.old_test
    return is_complete(folder) and (not wanted or read_results(folder)["extends"].get("old_test") == path_of(wanted))


def _require_same(made: Plan) -> None:
    """Raises InputError if the folder of the result holds anything else than the beginning of this extension."""
    require_same_run(made.config, made.stream)
    before = made.index - 1
    mine = task_folder(made.config.folder, before) / MODEL
    if mine.exists() and not filecmp.cmp(mine, task_folder(made.request.model, before) / mine.name, shallow=False):
        raise InputError(f"{made.config.folder} was extended from another model; give another folder with --out.")


def _open(made: Plan) -> None:
    """Makes the folder of the result, with the tasks of the model that is extended."""
    folder, images = made.config.folder, len(made.task.train_indices)
    if not (folder / CONFIG_FILE).exists():
        save_config(made.config, made.stream.source.fingerprint())
    what = f"{', '.join(made.request.classes)}: {images} images, {made.config.method}, results in {folder}"
    print(what, file=sys.stderr, flush=True)
    for index in range(made.index):
        if not task_folder(folder, index).exists():
            _take_over(task_folder(made.request.model, index), task_folder(folder, index))


def _take_over(task: Path, home: Path) -> None:
    """The files of a task that its model is made of; links where the disk allows them, for nothing changes them."""
    with atomic(home) as partial:
        partial.mkdir()
        for file in filter(Path.exists, (task / MODEL, task / "result.json")):
            try:
                os.link(file, partial / file.name)
            except OSError:
                shutil.copy(file, partial / file.name)


def _learn(made: Plan, processes: Processes) -> None:
    """Learns, tests and stores the new task, and writes results.json and the table."""
    config, folder, task = made.config, made.config.folder, made.task
    home = task_folder(folder, made.index)
    model = load_model(made.request.model, made.old, made.index - 1, processes)
    teacher, method = model.frozen(), make_method(config.method, config.options)
    torch.manual_seed(config.seed * 1000 + task.index)  # a restart grows the same classifier
    method.grow(model, task.new_classes)
    trainer = Trainer(config, processes, work_folder(home), Log(folder / "log.jsonl" if processes.is_main else None))
    statistics = told(made, method)
    if not (home / "result.json").exists():
        processes.first(lambda: print(f"Statistics of the old classes: {statistics}.", file=sys.stderr, flush=True))
        trainer.log.truncate(0)  # the trainer goes on at its last checkpoint, which is further on
        take_statistics(made, method, teacher, trainer)
        processes.first(lambda: _predict_before(made, processes))
        complete(made.stream, task, model, teacher, method, trainer)
    load_task(home, model, method)
    extends = {"model": str(made.request.model), "statistics": statistics, **_tested(made, teacher, model, processes)}
    processes.first(lambda: _write(made, extends))  # the others wait for what they read next
    if processes.is_main:
        shutil.rmtree(work_folder(home), ignore_errors=True)


def _predict_before(made: Plan, processes: Processes) -> None:
    """What every earlier model that is there sees in the images that will be pictured."""
    pictured = chosen_images(made.stream)
    for index in (index for index in range(made.index) if not is_dropped(made.request.model, index)):
        path = task_folder(made.config.folder, index) / PREDICTIONS
        model = load_model(made.request.model, made.old, index, processes)
        earlier = dataclasses.replace(made.task, index=index)
        save_predictions(path, model, earlier, pictured, made.config, processes)


def _tested(made: Plan, teacher: Segmenter, model: Segmenter, processes: Processes) -> dict[str, Any]:
    """IoU of the old classes on --old-test before and after; nothing without it."""
    if not made.request.old_test:
        return {}
    stream = made.other(made.request.old_test)
    before, after = (
        class_scores(network, stream.task(index, needs=["test"]), made.config, processes)
        for network, index in ((teacher, made.index - 1), (model, made.index))
    )
    after = {name: after[name] for name in before}
    return {"old_test": path_of(made.request.old_test), "before": before, "after": after}


def _write(made: Plan, extends: dict[str, Any]) -> None:
    """The table, then results.json, which says that all is done."""
    folder, source = made.config.folder, made.stream.source
    tasks = [read_task_result(task_folder(folder, index)) for index in range(made.index + 1)]
    names = source.class_names
    iou = dict(zip(made.task.seen_classes, tasks[-1]["iou"], strict=True))
    write_text(folder / TABLE, extension_table(extends, {names[new]: iou[new] for new in made.task.new_classes}))
    colours = palette_of(source)[: len(names)].tolist()
    facts = run_facts(as_dict(made.config), made.stream.groups, names, source.fingerprint(), colours)
    # The tasks were tested on different images, so there is no average over them.
    write_results(folder, {**facts, "extends": extends}, {"avg": None}, tasks, complete=True)
