"""Scores of segmentation: IoU of classes and their groups, its tables, its record, pictures of test images."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from css.report.record import Fraction, Record, Scored
from css.report.results import remarks
from css.report.scores import Scores
from css.report.text import markdown, percent
from css.summaries import average_over_tasks

if TYPE_CHECKING:
    from css.metrics import ConfusionMatrix
    from tasks import Task

TITLES = {"old": "old", "old_no_bg": "old w/o bg", "new": "new", "all": "all", "all_no_bg": "all w/o bg",
           "harmonic": "harmonic"}  # fmt: skip


def mean_table(result: dict) -> str:
    """Mean IoU of every group of classes after one task."""
    return markdown(["group", "mIoU"], [[group, percent(result["groups"][group])] for group in GROUPS])


def iou_table(results: dict) -> str:
    """One row per task: image counts, mIoU per group; then the mean over tasks and the classes after the last task."""
    config, names = results["config"], results["class_names"]
    rows = []
    for task in results["tasks"]:
        new = [names[c] for c in task["new_classes"] if c]
        title = ", ".join(new) if len(new) <= 3 else f"{new[0]} ... {new[-1]}"
        counts = [str(task["train_images"]), str(task["test_images"])]
        means = [percent(task["groups"][group]) for group in GROUPS]
        rows.append([f"{task['index']}: {title}", *counts, *means])
    table = markdown(["task", "train", "test", *(TITLES[group] for group in GROUPS)], rows)
    last = results["tasks"][-1]
    classes = [[names[c], percent(iou)] for c, iou in zip(results["class_order"], last["iou"], strict=False)]
    run = " ".join((Path(config["dataset"]).name, config["protocol"], config["setting"]))
    return (
        f"{run}, {config['method']}, seed {config['seed']}: mIoU in %\n\n{table}\n\n"
        f"avg {percent(results['avg'])}. old = classes of task 0, background included; new = classes of the "
        f"later tasks; avg = mean of all over the tasks.{remarks(results)}\n\n"
        f"After task {last['index']}:\n\n{markdown(['class', 'IoU'], classes)}\n"
    )


@dataclass(config=ConfigDict(strict=True), kw_only=True)
class TaskRecord(Scored):
    """IoU of every class seen so far (null without ground truth), in the order of learning."""

    iou: list[Fraction | None]
    groups: dict[str, Fraction | None] = field(default_factory=dict)

    @property
    def per_class(self) -> list[float | None]:
        """IoU of every class seen so far, in the order of learning; None without ground truth."""
        return self.iou


@dataclass(config=ConfigDict(strict=True), kw_only=True)
class IouRecord(Record):
    """Of a segmentation run."""

    tasks: Annotated[list[TaskRecord], Field(min_length=1)]
    avg: float | None = None

    def means(self, task: int = -1) -> dict[str, float | None]:
        """Mean IoU of every group after a task (default: the last), from the IoU of its classes."""
        import torch  # takes two seconds, and most reports do without

        from css.metrics import group_means

        iou = [float("nan") if value is None else value for value in self.tasks[task].iou]
        return group_means(torch.tensor(iou, dtype=torch.float64), len(self.protocol_groups[0]))

    def average(self) -> float | None:
        """Mean over tasks, the first included, of the mean IoU over all classes."""
        means = [self.means(task)["all"] for task in range(len(self.tasks))]
        known = [mean for mean in means if mean is not None]
        return average_over_tasks(known) if len(known) == len(means) else None

    def final_iou(self) -> dict[int, float | None]:
        """By class id, after the last task."""
        return dict(zip(self.class_order, self.tasks[-1].iou, strict=False))

    def forgetting(self) -> dict[int, float | None]:
        """By class id: IoU after the task in which the class was learnt minus IoU after the last task."""
        final = self.final_iou()
        lost: dict[int, float | None] = {}
        for task in self.tasks:
            for class_id, learnt in zip(task.new_classes, task.iou[-len(task.new_classes) :], strict=True):
                left = final[class_id]
                lost[class_id] = None if learnt is None or left is None else learnt - left
        return lost


GROUPS = ("old", "old_no_bg", "new", "all", "all_no_bg", "harmonic")


def task_result(task: "Task", confusion: "ConfusionMatrix", num_first: int) -> dict:
    """Numbers of one task from its confusion matrix; a class without ground truth has the IoU null."""
    return {
        "index": task.index,
        "new_classes": task.new_classes,
        "train_images": len(task.train_indices),
        "test_images": len(task.test_indices),
        "confusion": confusion.matrix.tolist(),
        "iou": [None if value != value else value for value in confusion.iou().tolist()],
        "groups": confusion.groups(num_first),
        "summary": confusion.summary(),
    }


class IouScores(Scores):
    """Intersection over union of every class, and its mean over groups of classes."""

    record = IouRecord
    published = ("old", "new", "all")

    def task_result(self, task: "Task", confusion: "ConfusionMatrix", groups: list[list[int]]) -> dict[str, Any]:
        """See `task_result`."""
        return task_result(task, confusion, len(groups[0]))

    def summary(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """The mean over tasks of the mean IoU over all classes."""
        return {"avg": average_over_tasks([task["groups"]["all"] for task in tasks])}

    def brief(self, result: dict[str, Any]) -> str:
        """Mean IoU of old, new and all classes."""
        return "mIoU " + ", ".join(f"{name} {percent(result['groups'][name])}" for name in ("old", "new", "all"))

    def run_table(self, results: dict[str, Any]) -> str:
        """See `iou_table`."""
        return iou_table(results)

    def score_table(self, result: dict[str, Any]) -> str:
        """See `mean_table`."""
        return mean_table(result)
