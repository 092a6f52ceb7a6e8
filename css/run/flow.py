"""One run: every task of a stream, from the data to results.json. This file is the whole flow."""

import shutil
import time
from functools import partial
from typing import Any

import torch

from css.config.files import as_dict
from css.config.settings import RunConfig
from css.kinds.choice import kind_of
from css.method.contract import Method
from css.method.registry import make_method
from css.model.segmenter import Segmenter
from css.page.run import write_run_page
from css.report.choice import run_table, scores_of
from css.report.results import read_results, read_task_result, write_results
from css.report.scores import Scores
from css.run.checks import checked_stream, resolve
from css.run.facts import run_facts
from css.run.first_task import borrowed_first_task, with_own_head
from css.run.folder import (
    drop_models,
    is_complete,
    is_dropped,
    load_task,
    open_folder,
    require_same_run,
    store,
    task_folder,
    work_folder,
)
from css.s2mf.hypercolumns import require_places, see_hypercolumns
from css.system.files import write_text
from css.system.log import Log
from css.system.peak_memory import peak_mb, reset_peak
from css.system.processes import Processes
from css.system.track import Tracker, find_tracker
from css.training.checkpoint import restore_model
from css.training.evaluate import evaluate
from css.training.image_counts import ImageCounts
from css.training.trainer import Trainer
from tasks import Stream, Task
from tasks.palette import palette_of


def run(config: RunConfig, processes: Processes) -> dict[str, Any]:
    """Learns the stream and returns its results. Goes on where a killed run was; a finished one is only shown.

    Raises InputError for anything a user can mend; nothing is written before settings and data are checked.
    """
    config = resolve(config)
    stream = checked_stream(config, processes.world)
    folder, scores = config.folder, scores_of(config.dataset)
    method = make_method(config.method, config.options)
    learnt = stream.joint() if method.joint else stream
    processes.first(lambda: require_same_run(config, stream))
    if is_complete(folder):
        return show(config, processes)
    tracker_type = find_tracker(config.track)
    model = build_model(config, stream, processes)  # refuses unfit weights, so before anything is written
    require_places(config, learnt.task(0), model)
    processes.first(lambda: open_folder(config, stream))
    log, tracker = open_log(config, tracker_type, processes)
    source, names = stream.source, stream.source.class_names
    colours = palette_of(source)[: len(names)].tolist()
    facts = run_facts(as_dict(config), stream.groups, names, source.fingerprint(), colours)
    results: list[dict] = []
    for task in learnt:
        teacher = model.frozen() if task.index else None
        torch.manual_seed(config.seed * 1000 + task.index)  # a restart grows the same classifier
        method.grow(model, task.new_classes)
        home = task_folder(folder, task.index)
        if not (home / "result.json").exists():
            log.truncate(results[-1]["log_bytes"] if results else 0)
            trainer = Trainer(config, processes, work_folder(home), log)
            complete(stream, task, model, teacher, method, trainer)
            processes.first(partial(drop_earlier, config, task.index))
        if not is_dropped(folder, task.index):
            load_task(home, model, method)
        results.append(read_task_result(home))
        if processes.is_main:
            shutil.rmtree(work_folder(home), ignore_errors=True)
            write_results(folder, facts, scores.summary(results), results, complete=task.index == len(learnt) - 1)
            tracker.task(results[-1], home)
            print(brief(results[-1], scores), flush=True)
    processes.wait()
    shown = show(config, processes)
    tracker.end(run_table(shown))
    return shown


def open_log(config: RunConfig, tracker_type: type[Tracker], processes: Processes) -> tuple[Log, Tracker]:
    """The log of a run and its tracker, which sees what is logged; in other processes than the first nothing is."""
    if not processes.is_main:
        return Log(None), Tracker(config.folder, {})
    tracker = tracker_type(config.folder, as_dict(config))
    return Log(config.folder / "log.jsonl", tracker.step), tracker


def drop_earlier(config: RunConfig, index: int) -> None:
    """With --keep last removes the models before that of a finished task, which every process has loaded then."""
    if config.keep == "last":
        drop_models(config.folder, index)


def show(config: RunConfig, processes: Processes) -> dict[str, Any]:
    """Prints the table of a finished run and writes it and the report beside the results, which it returns."""
    folder, results = config.folder, read_results(config.folder)
    if processes.is_main:
        drop_earlier(config, len(results["tasks"]) - 1)
        write_text(folder / "table.md", run_table(results))
        write_run_page(folder)
        print(f"\n{run_table(results)}", flush=True)
    return results


def build_model(config: RunConfig, stream: Stream, processes: Processes) -> Segmenter:
    """The network before its first task, the same in every process."""
    torch.manual_seed(config.seed)
    model = kind_of(config.dataset).build(config, stream.groups)
    return model.to(processes.device).to(memory_format=torch.channels_last)


def complete(
    stream: Stream, task: Task, model: Segmenter, teacher: Segmenter | None, method: Method, trainer: Trainer
) -> None:
    """Learns, tests and stores one task, whose classes the model has grown to; a first one may be another run's."""
    config, processes, began = trainer.config, trainer.processes, time.perf_counter()
    reset_peak(processes.device)
    if task.index == 0 and config.task0:
        shared = borrowed_first_task(config, task)
        restore_model(model, with_own_head(shared, model, method), config.task0)
    elif teacher is None:
        method.learn_first(task, model, trainer)
    else:
        method.learn(task, model, teacher, trainer)
    if config.model.sees_hypercolumns and model.hypercolumn is None:
        see_hypercolumns(task, model, trainer)
    method.finish(task, model, trainer)
    single = ImageCounts(len(task.test_indices), len(task.seen_classes))
    confusion = evaluate(model, task, config, processes, single)
    result = scores_of(config.dataset).task_result(task, confusion, stream.groups) | {
        "history": trainer.history,
        "seconds": {
            **_seconds_by_stage(trainer),
            "train": sum(epoch["seconds"] for epoch in trainer.history),
            "since_start_or_restart": time.perf_counter() - began,
        },
        "peak_memory_mb": peak_mb(processes.device),
        "log_bytes": trainer.log.position(),
    }
    processes.first(lambda: store(stream, task, model, method, trainer, result, single))


def _seconds_by_stage(trainer: Trainer) -> dict[str, float]:
    """Epochs of every stage together, and what was computed once."""
    seconds = dict(trainer.seconds)
    for epoch in trainer.history:
        seconds[epoch["stage"]] = seconds.get(epoch["stage"], 0.0) + epoch["seconds"]
    return seconds


def brief(result: dict, scores: Scores) -> str:
    """One line on a finished task: its scores, and the seconds of its stages."""
    sums = ("train", "since_start_or_restart")
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items() if name not in sums)
    return f"task {result['index']}: {scores.brief(result)}" + (f" ({spent})" if spent else "")
