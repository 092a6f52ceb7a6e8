"""One run: every task of a stream, from the data to results.json. This file is the whole flow."""

import hashlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from css import config as settings
from css.config import RunConfig
from css.data import make_stream
from css.evaluate import evaluate
from css.files import atomic, load_tensors, save_tensors, write_json, write_text
from css.kinds import Kind, kind_of
from css.log import Log
from css.memory import peak_mb, reset_peak
from css.method import Method, method_class
from css.model import Segmenter
from css.optimizer import require_optimizer
from css.processes import Processes
from css.report import run_table
from css.results import read_results, read_task_result, run_facts, write_results
from css.trainer import Trainer, restore_model
from tasks import InputError, Stream, Task


def run(config: RunConfig, processes: Processes) -> dict[str, Any]:
    """Learns the stream and returns its results. Goes on where a killed run was; a finished one is only shown.

    Raises InputError for anything a user can mend; nothing is written before settings and data are checked.
    """
    config = settings.resolve(config)
    stream = checked_stream(config, processes.world)
    folder, kind = config.folder, kind_of(config.dataset)
    method = method_class(config.method)(config.options)
    learnt = stream.joint() if method.joint else stream
    processes.first(lambda: _require_same_run(config, stream))
    if _is_complete(folder):
        return _show(folder, processes)
    model = build_model(config, stream, processes)  # refuses unfit weights, so before anything is written
    processes.first(lambda: _open_folder(config, stream))
    log = Log(folder / "log.jsonl" if processes.is_main else None)
    facts = run_facts(settings.as_dict(config), stream.groups, stream.source.class_names, stream.source.fingerprint())
    results: list[dict] = []
    for task in learnt:
        teacher = model.frozen() if task.index else None
        torch.manual_seed(config.seed * 1000 + task.index)  # a restart grows the same classifier
        model.grow(task.new_classes)
        home = task_folder(folder, task.index)
        if not (home / "result.json").exists():
            log.truncate(results[-1]["log_bytes"] if results else 0)
            trainer = Trainer(config, processes, _work_folder(home), log)
            _complete(stream, task, model, teacher, method, trainer)
        load_task(home, model, method)
        results.append(read_task_result(home))
        if processes.is_main:
            shutil.rmtree(_work_folder(home), ignore_errors=True)
            write_results(folder, facts, kind.summary(results), results, complete=task.index == len(learnt) - 1)
            print(_brief(results[-1], kind), flush=True)
    processes.wait()
    return _show(folder, processes)


def _is_complete(folder: Path) -> bool:
    return (folder / "results.json").exists() and read_results(folder)["complete"]


def _show(folder: Path, processes: Processes) -> dict[str, Any]:
    """Prints the table of a finished run and writes it beside the results, which it returns."""
    results = read_results(folder)
    if processes.is_main:
        write_text(folder / "table.md", run_table(results))
        print(f"\n{run_table(results)}", flush=True)
    return results


def checked_stream(config: RunConfig, world: int) -> Stream:
    """The stream of a configuration, after checking everything a user can get wrong; nothing is written."""
    settings.check(config, world)
    require_optimizer(config.train)
    stream = make_stream(config)
    tasks = list(stream)  # every task must have images
    method_class(config.method)(config.options).check_tasks(config, tasks)
    if config.task0 and not (task_folder(config.folder, 0) / "result.json").exists():
        _borrowed_first_task(config, stream.task(0))
    return stream


def build_model(config: RunConfig, stream: Stream, processes: Processes) -> Segmenter:
    """The network before its first task, the same in every process."""
    torch.manual_seed(config.seed)
    model = kind_of(config.dataset).build(config, stream.groups)
    return model.to(processes.device, memory_format=torch.channels_last)


def task_folder(folder: Path, index: int) -> Path:
    return folder / f"task_{index}"


def _work_folder(home: Path) -> Path:
    """Where the checkpoints of an unfinished task lie."""
    return home.with_name(f"{home.name}.work")


def load_task(home: Path, model: Segmenter, method: Method | None = None) -> None:
    """Restores the end of a task into a model that has grown to it."""
    tensors, _ = load_tensors(home / "model.safetensors")
    restore_model(model, tensors, home / "model.safetensors")
    if method:
        method.load_tensors(
            {name.removeprefix("method."): t for name, t in tensors.items() if name.startswith("method.")}
        )


def _complete(
    stream: Stream, task: Task, model: Segmenter, teacher: Segmenter | None, method: Method, trainer: Trainer
) -> None:
    """Learns, tests and stores one task; the first may be taken from another run."""
    config, processes, began = trainer.config, trainer.processes, time.perf_counter()
    reset_peak(processes.device)
    if task.index == 0 and config.task0:
        restore_model(model, _borrowed_first_task(config, task), config.task0)
    elif teacher is None:
        method.learn_first(task, model, trainer)
    else:
        method.learn(task, model, teacher, trainer)
    method.finish(task, model, trainer)
    result = trainer.kind.task_result(task, evaluate(model, task, config, processes), stream.groups) | {
        "history": trainer.history,
        "seconds": {
            **_seconds_by_stage(trainer),
            "train": sum(epoch["seconds"] for epoch in trainer.history),
            "since_start_or_restart": time.perf_counter() - began,
        },
        "peak_memory_mb": peak_mb(processes.device),
        "log_bytes": trainer.log.position(),
    }
    processes.first(lambda: _store(stream, task, model, method, trainer, result))


def _store(stream: Stream, task: Task, model: Segmenter, method: Method, trainer: Trainer, result: dict) -> None:
    """Writes the folder of a finished task, which appears only when everything in it is complete."""
    config, processes = trainer.config, trainer.processes
    with atomic(task_folder(config.folder, task.index)) as home:
        home.mkdir()
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"method.{name}": value for name, value in method.tensors().items()}
        save_tensors(home / "model.safetensors", tensors, {"identity": _identity(task)})
        earlier = [task_folder(config.folder, index) for index in range(task.index)]
        trainer.kind.draw(home, earlier, stream, task, model, config, processes)
        method.store(home, task, model)
        write_json(home / "result.json", result)


def _seconds_by_stage(trainer: Trainer) -> dict[str, float]:
    """Epochs of every stage together, and what was computed once."""
    seconds = dict(trainer.seconds)
    for epoch in trainer.history:
        seconds[epoch["stage"]] = seconds.get(epoch["stage"], 0.0) + epoch["seconds"]
    return seconds


def _identity(task: Task) -> str:
    """Digest of what a task is learnt from: data, images and label map."""
    digest = hashlib.sha256(task.source.fingerprint().encode())
    for array in (task.train_indices, task.train_lut):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _borrowed_first_task(config: RunConfig, task: Task) -> dict[str, torch.Tensor]:
    """The finished first task of the run --task0 names, if it was learnt from the same data with the same settings."""
    home = task_folder(config.task0, 0)
    if not (home / "result.json").exists():
        raise InputError(f"--task0 {config.task0} has no finished first task; name the folder of a run that has one.")
    tensors, facts = load_tensors(home / "model.safetensors")
    reasons = settings.differences(settings.as_dict(config), settings.read(config.task0), first_task_only=True)
    if facts.get("identity") != _identity(task):
        reasons.append("its first task was learnt from other images or classes")
    if reasons:
        raise InputError(f"--task0 {config.task0} does not fit this run: {'; '.join(reasons)}.")
    return tensors


def _require_same_run(config: RunConfig, stream: Stream) -> None:
    """Raises InputError if the run folder was made with other settings or other data."""
    if not (config.folder / settings.FILE).exists():
        return
    mine = settings.as_dict(config) | {settings.FINGERPRINT: stream.source.fingerprint()}
    if changed := settings.differences(mine, settings.read(config.folder)):
        raise InputError(
            f"{config.folder} was made with another configuration: {'; '.join(changed)}. "
            "Give the same settings to resume it, or another folder (--name, --runs)."
        )


def _open_folder(config: RunConfig, stream: Stream) -> None:
    """Makes the run folder if it is not there, and says what will run."""
    if not (config.folder / settings.FILE).exists():
        settings.save(config, stream.source.fingerprint())
    chosen = f"{config.method}, {config.model.encoder}, {config.train.precision}, results in {config.folder}"
    print(f"{stream.describe()}\n{chosen}", file=sys.stderr, flush=True)


def _brief(result: dict, kind: Kind) -> str:
    sums = ("train", "since_start_or_restart")
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items() if name not in sums)
    return f"task {result['index']}: {kind.brief(result)}" + (f" ({spent})" if spent else "")
