"""A finished run opened again: its configuration, its stream, its models."""

from pathlib import Path

import torch

from css.config.files import CONFIG_FILE, read_config
from css.config.settings import RunConfig
from css.kinds.choice import kind_of
from css.method.registry import make_method
from css.model.segmenter import Segmenter
from css.report.results import read_results, read_task_result
from css.run.folder import is_dropped, load_task, task_folder
from css.run.presets import from_dict
from css.run.stream import stream_of
from css.system.processes import Processes
from css.system.version import TOOLKIT
from tasks import InputError, Stream
from tasks.datasets import registry


def config_of(run: Path, data_root: Path | None = None) -> RunConfig:
    """The configuration of a run folder, wherever the folder lies now. Raises InputError if it is not one of ours."""
    values = read_config(run)
    try:
        return from_dict(values, str(run / CONFIG_FILE), runs=run.parent, name=run.name,
                                  **({"data_root": data_root} if data_root else {}))  # fmt: skip
    except KeyError as error:
        raise InputError(f"{run / CONFIG_FILE} lacks {error}; name a run folder made by this program.") from None


def open_run(run: Path, data_root: Path | None) -> tuple[RunConfig, Stream]:
    """Settings and stream of a run folder; `data_root` if its data has moved. Raises InputError for other data."""
    config, results = config_of(run, data_root), read_results(run)
    stream = stream_of(config, results)
    if stream.source.fingerprint() != results["data_fingerprint"]:
        place = registry.place_of(config.dataset, config.data_root)
        old = "" if TOOLKIT in results.get("versions", {}) else ", or version 0.1 made it, which read masks otherwise"
        raise InputError(f"The data at {place} is not what {run} was made with{old}; `css report` shows its tables.")
    return config, stream.joint() if make_method(config.method, config.options).joint else stream


def finished_task(run: Path, task: int | None) -> int:
    """`task`, or the last finished one if it is None. Raises InputError if it is not finished."""
    finished = len(read_results(run)["tasks"])
    if task is None:
        return finished - 1
    if not 0 <= task < finished:
        raise InputError(f"--task {task} is not finished in {run}; it has the tasks 0 to {finished - 1}.")
    return task


def load_model(run: Path, config: RunConfig, index: int, processes: Processes) -> Segmenter:
    """The network of a run as it was at the end of task `index`. Raises InputError if it has not been kept."""
    if is_dropped(run, index):
        raise InputError(
            f"{run} has kept the model of its last task alone, not of task {index} (--keep last); leave out --task, or "
            "learn it in another folder with --keep all."
        )
    model = kind_of(config.dataset).build(config, read_results(run)["protocol_groups"], pretrained=False)
    model = model.to(processes.device).to(memory_format=torch.channels_last)
    method = make_method(config.method, config.options)
    for earlier in range(index + 1):
        method.grow(model, read_task_result(task_folder(run, earlier))["new_classes"])
    load_task(task_folder(run, index), model)
    return model
