"""The folder of a run and of its tasks."""

import hashlib
import sys
from collections.abc import Collection
from pathlib import Path

from css.config.compare import differences
from css.config.files import CONFIG_FILE, FINGERPRINT, as_dict, read_config, save_config
from css.config.settings import RunConfig
from css.kinds.choice import kind_of
from css.method.contract import Method
from css.model.segmenter import Segmenter
from css.report.examples import channels_that_lost, choose_examples
from css.report.pictures import PREDICTIONS, draw_examples, draw_task
from css.report.results import read_results, read_task_result
from css.system.files import atomic, write_json, writing
from css.system.tensors import load_tensors, save_tensors
from css.training.checkpoint import restore_model
from css.training.image_counts import ImageCounts
from css.training.trainer import Trainer
from tasks import InputError, Stream, Task

MODEL = "model.safetensors"  # in the folder of a task: network and what its method keeps


def is_complete(folder: Path) -> bool:
    """Whether a run has learnt its whole stream."""
    return (folder / "results.json").exists() and read_results(folder)["complete"]


def task_folder(folder: Path, index: int) -> Path:
    """Where a finished task lies in its run's folder."""
    return folder / f"task_{index}"


def work_folder(home: Path) -> Path:
    """Where the checkpoints of an unfinished task lie."""
    return home.with_name(f"{home.name}.work")


def load_task(home: Path, model: Segmenter, method: Method | None = None) -> None:
    """Restores the end of a task into a model that has grown to it."""
    tensors, _ = load_tensors(home / MODEL)
    restore_model(model, tensors, home / MODEL)
    if method:
        method.load_tensors(
            {name.removeprefix("method."): t for name, t in tensors.items() if name.startswith("method.")}
        )


def is_dropped(folder: Path, index: int) -> bool:
    """Whether the model of a task is gone, and nothing needs it, for a later task is finished (--keep last)."""
    later = task_folder(folder, index + 1) / "result.json"
    return later.exists() and not (task_folder(folder, index) / MODEL).exists()


def drop_models(folder: Path, last: int, spared: Collection[int] = ()) -> None:
    """Removes every tensor of the tasks up to `last` but predictions, the model of `last`, and those of `spared` tasks.

    What `css analyse` compares goes with them. Links to a model, in folders of `css extend`, stay. Raises InputError if
    the folder cannot be written.
    """
    for index in range(last + 1):
        stays = {PREDICTIONS, MODEL} if index in {last, *spared} else {PREDICTIONS}
        for file in task_folder(folder, index).glob("*.safetensors"):
            if file.name not in stays:
                with writing(file):
                    file.unlink(missing_ok=True)


def store(stream: Stream, task: Task, model: Segmenter, method: Method, trainer: Trainer, result: dict,
          single: ImageCounts) -> None:  # fmt: skip
    """Writes the folder of a finished task, which appears only when everything in it is complete."""
    config, processes = trainer.config, trainer.processes
    with atomic(task_folder(config.folder, task.index)) as home:
        home.mkdir()
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"method.{name}": value for name, value in method.tensors().items()}
        facts = {"identity": identity(task), "first_task": method.first_task()}
        save_tensors(home / MODEL, tensors, facts)
        earlier = [task_folder(config.folder, index) for index in range(task.index)]
        if kind_of(config.dataset).has_layouts:
            draw_task(home, earlier, stream, task, model, config, processes)
            history = [*(read_task_result(folder)["iou"] for folder in earlier), result["iou"]]
            examples = choose_examples(single.iou().numpy(), single.missed().numpy(), single.counted().numpy(),
                                       channels_that_lost(history))  # fmt: skip
            result["pictures"] = draw_examples(home, examples, task, model, config, processes)
        method.store(home, task, model)
        write_json(home / "result.json", result)


def identity(task: Task) -> str:
    """Digest of what a task is learnt from: data, images and label map."""
    digest = hashlib.sha256(task.source.fingerprint().encode())
    for array in (task.train_indices, task.train_lut):
        digest.update(array.tobytes())
    return digest.hexdigest()


def require_same_run(config: RunConfig, stream: Stream) -> None:
    """Raises InputError if the run folder was made with other settings or other data."""
    if not (config.folder / CONFIG_FILE).exists():
        return
    mine = as_dict(config) | {FINGERPRINT: stream.source.fingerprint()}
    if changed := differences(mine, read_config(config.folder)):
        raise InputError(
            f"{config.folder} was made with another configuration: {'; '.join(changed)}. "
            "Give the same settings to resume it, or another folder (--name, --runs)."
        )


def open_folder(config: RunConfig, stream: Stream) -> None:
    """Makes the run folder if it is not there, and says what will run."""
    if not (config.folder / CONFIG_FILE).exists():
        save_config(config, stream.source.fingerprint())
    chosen = f"{config.method}, {config.model.encoder}, {config.train.precision}, results in {config.folder}"
    print(f"{stream.describe()}\n{chosen}", file=sys.stderr, flush=True)
