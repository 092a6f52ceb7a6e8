"""Scores by the name of a class."""

from css.config.settings import RunConfig
from css.model.segmenter import Segmenter
from css.system.processes import Processes
from css.training.evaluate import evaluate
from tasks import Task


def class_scores(model: Segmenter, task: Task, config: RunConfig, processes: Processes) -> dict[str, float | None]:
    """IoU of every class seen by a task, on its test images; None of a class that they do not show."""
    iou = evaluate(model, task, config, processes).iou().tolist()
    names = [task.source.class_names[class_id] for class_id in task.seen_classes]
    return {name: None if value != value else value for name, value in zip(names, iou, strict=True)}
