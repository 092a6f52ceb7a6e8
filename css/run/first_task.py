"""The first task of another run, where it fits."""

import torch

from css.config.compare import differences
from css.config.files import as_dict, read_config
from css.config.settings import RunConfig
from css.method.contract import FIRST_TASK, Method
from css.method.registry import make_method
from css.model.segmenter import Segmenter
from css.run.folder import MODEL, identity, is_dropped, task_folder
from css.system.tensors import load_tensors
from tasks import InputError, Task


def borrowed_first_task(config: RunConfig, task: Task) -> dict[str, torch.Tensor]:
    """The finished first task of the run --task0 names: its network and what its method keeps, by name.

    Raises InputError unless it was learnt from the same data with the same settings.
    """
    run = config.task0
    assert run is not None, "asked for only where there is one"
    home = task_folder(run, 0)
    if not (home / "result.json").exists():
        raise InputError(f"--task0 {run} has no finished first task; name the folder of a run that has one.")
    if is_dropped(run, 0):
        raise InputError(
            f"--task0 {run} has not kept the model of its first task (--keep last); name a run that has, or leave "
            "--task0 out to learn it."
        )
    tensors, facts = load_tensors(home / MODEL)
    theirs = read_config(run)
    reasons = differences(as_dict(config), theirs, first_task_only=True)
    if facts.get("identity") != identity(task):
        reasons.append("its first task was learnt from other images or classes")
    wanted, found = make_method(config.method, config.options).first_task(), facts.get("first_task", FIRST_TASK)
    if wanted != found:
        reasons.append(f"{config.method} here needs a first task learnt with {wanted}, and that one was with {found}")
    if reasons:
        raise InputError(f"--task0 {run} does not fit this run: {'; '.join(reasons)}.")
    model = config.model
    seen = theirs["model"].get("classifier_features"), theirs["model"].get("classifier_hidden", 0)
    same = seen == (model.classifier_features, model.classifier_hidden)
    return tensors if same else _without_hypercolumns(tensors)


def _without_hypercolumns(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network with the classifier that it was trained with, even if that has come to see hypercolumns."""
    added = ("model.hypercolumn.", "model.hidden.", "model.pretrained.")
    kept = {name: value for name, value in tensors.items() if not name.startswith(added)}
    if "model.hypercolumn.own_weight" in tensors:
        kept["model.classifiers.0.weight"] = tensors["model.hypercolumn.own_weight"][:, :, None, None]
        kept["model.classifiers.0.bias"] = tensors["model.hypercolumn.own_bias"]
    return kept


def with_own_head(tensors: dict[str, torch.Tensor], model: Segmenter, method: Method) -> dict[str, torch.Tensor]:
    """A first task that all methods share, but for what a method puts into `model.head`; another one as it is."""
    if method.first_task() != FIRST_TASK:
        return tensors
    shared = {name: value for name, value in tensors.items() if not name.startswith("model.head.")}
    own = {f"model.{name}": value for name, value in model.state_dict().items() if name.startswith("head.")}
    return shared | own
