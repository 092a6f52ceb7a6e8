"""Statistics of the features of old classes: kept by the run, of labelled old images, or of the model's own answers."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from css.extend.plan import Plan
from css.method.contract import Method
from css.model.segmenter import Segmenter
from css.model.state import evaluating
from css.run.folder import task_folder, work_folder
from css.s2mf.alignment import Alignment
from css.s2mf.moments import FeatureMoments
from css.system.tensors import load_tensors, part
from css.training.trainer import Trainer
from tasks import Task
from tasks.source import VOID

CONFIDENT = 0.8  # probability from which on an answer of the model counts as true
KEPT, LABELLED, OWN, NONE = "kept by the model's run", "of --first-data", "of the model's own answers", "not used"


def origin(plan: Plan, method: Method) -> str:
    """Where what the method knows of the old classes is from."""
    kept, aligns = _kept(plan), isinstance(getattr(method, "alignment", None), Alignment)
    if kept and (plan.config.method == plan.old.method or (aligns and _sums(kept))):
        return KEPT
    if not aligns:
        return NONE
    return LABELLED if plan.request.first_data else OWN


def told(plan: Plan, method: Method) -> str:
    """`origin` in a report, which says so if --first-data was given in vain."""
    where = origin(plan, method)
    return f"{where}; --first-data is not used" if plan.request.first_data and where != LABELLED else where


def take_statistics(plan: Plan, method: Method, teacher: Segmenter, trainer: Trainer) -> None:
    """Gives a method what is known of the old classes, see `origin`."""
    where = origin(plan, method)
    alignment: Any = getattr(method, "alignment", None)  # not None where it is used
    if where == KEPT and plan.config.method == plan.old.method:
        method.load_tensors(_kept(plan))
    elif where == KEPT:
        alignment.load_tensors(_sums(_kept(plan)))
    elif where == LABELLED:
        _count_labelled(plan, alignment, teacher, trainer)
    elif where == OWN:
        found = trainer.once("own_answers", lambda: {"sums": own_moments(plan.task, teacher, trainer).sums})
        alignment.moments = FeatureMoments(found["sums"])


def _kept(plan: Plan) -> dict[str, Tensor]:
    """What the method of the model's run has kept of all its tasks."""
    home = task_folder(plan.request.model, plan.index - 1)
    return part(load_tensors(home / "model.safetensors")[0], "method")


def _sums(kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """The moments of features among them: of a wrapper, or of a method that does nothing but align."""
    return part(kept, "alignment") or {name: value for name, value in kept.items() if name == "sums"}


def _count_labelled(plan: Plan, alignment: Alignment, teacher: Segmenter, trainer: Trainer) -> None:
    """The features of the images of --first-data, by their labels."""
    stream = plan.other(plan.request.first_data or "")
    first = dataclasses.replace(stream.joint().task(0), groups=[plan.task.old_classes])
    folder = work_folder(task_folder(plan.config.folder, plan.index)) / "first"
    alignment.finish(first, teacher, Trainer(trainer.config, trainer.processes, folder, trainer.log))


def own_moments(task: Task, teacher: Segmenter, trainer: Trainer) -> FeatureMoments:
    """The features of a task's images where `teacher` is sure of an old class, by its answers.

    Places that the labels give to a new class are left out. A class of which the images show nothing has no features.
    """
    moments, known = FeatureMoments(), len(task.old_classes)
    for images, labels in trainer.passes(task, teacher, "own answers"):
        with torch.no_grad(), evaluating(teacher), trainer.autocast():
            output = teacher(images)
        answers = sure_answers(output.logits, labels, known)
        moments.update(output.features.float().permute(0, 2, 3, 1).flatten(0, 2), answers.flatten(), known)
    return FeatureMoments(trainer.processes.sum(moments.sums))


def sure_answers(logits: Tensor, labels: Tensor, known: int) -> Tensor:
    """Channels (B, h, w) of the largest of `known` logits (B, known, h, w), VOID where in doubt or where it is wrong.

    In doubt below a probability of CONFIDENT, wrong where the labels (B, H, W) show a new class or void.
    """
    probability, answers = logits.float().softmax(1).max(1)
    places = torch.nn.functional.interpolate(labels[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0]
    return answers.masked_fill((probability < CONFIDENT) | (places >= known), VOID)
