"""Accuracies of a classification stream: of every task after every task, ACC and BWT, their table, their record."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from css.report.record import Fraction, Record, Scored
from css.report.results import remarks
from css.report.scores import Scores
from css.report.text import markdown, percent
from css.summaries import continual_accuracy

if TYPE_CHECKING:
    from css.metrics import ConfusionMatrix
    from tasks import Task


def accuracies(task: "Task", confusion: "ConfusionMatrix", groups: list[list[int]]) -> dict:
    """Numbers of one task, as result.json holds them.

    `accuracy` of every task of the protocol (`groups`) that is learnt, over its test images; `class_accuracy` in the
    order of the channels. The confusion matrix holds answers within the task of the image.
    """
    channel = {class_id: place for place, class_id in enumerate(task.seen_classes)}
    matrix = confusion.matrix
    learnt = [[channel[c] for c in group] for group in groups if set(group) <= channel.keys()]
    return {
        "index": task.index,
        "new_classes": task.new_classes,
        "train_images": len(task.train_indices),
        "test_images": len(task.test_indices),
        "accuracy": [(matrix.diagonal()[rows].sum() / matrix[rows].sum()).item() for rows in learnt],
        "class_accuracy": confusion.accuracy().nan_to_num().clamp(max=1).tolist(),
    }


def summarise(matrix: list[list[float]], joint: bool) -> dict[str, Any]:
    """ACC and BWT (Split2MetaFusion, Eq. 11 and 12); joint training has one row of all tasks, and forgets none."""
    acc, bwt = (sum(matrix[0]) / len(matrix[0]), None) if joint else continual_accuracy(matrix)
    return {"acc": acc, "bwt": bwt, "accuracy_matrix": matrix}


def accuracy_table(results: dict) -> str:
    """One row per task: images, its accuracy when learnt and at the end; ACC, BWT and the whole matrix."""
    config, names, tasks, matrix = (
        results["config"], results["class_names"], results["tasks"], results["accuracy_matrix"],
    )  # fmt: skip
    rows = []
    for task in tasks:
        new = [names[c] for c in task["new_classes"]]
        title = ", ".join(new) if len(new) <= 3 else f"{new[0]} ... {new[-1]}"
        found = task["accuracy"]
        rows.append([
            f"{task['index']}: {title}", str(task["train_images"]), str(task["test_images"]), percent(found[-1]),
            percent(sum(found) / len(found)),
        ])  # fmt: skip
    table = markdown(["task", "train", "test", "this task", "tasks so far"], rows)
    width = len(matrix[-1])
    after = [[str(t), *map(percent, row), *["-"] * (width - len(row))] for t, row in enumerate(matrix)]
    run = " ".join(config[key] for key in ("dataset", "protocol"))
    return (
        f"{run}, {config['method']}, seed {config['seed']}: accuracy in %, the task of an image is known\n\n{table}\n\n"
        f"ACC {percent(results['acc'])}, BWT {percent(results['bwt'])}.{remarks(results)}\n\n"
        f"Accuracy on every task (columns), after every task (rows):\n\n"
        f"{markdown(['after', *map(str, range(width))], after)}\n"
    )


@dataclass(config=ConfigDict(strict=True), kw_only=True)
class AccuracyTask(Scored):
    """One task: accuracy of every task so far, and of every class."""

    accuracy: Annotated[list[Fraction], Field(min_length=1)]
    class_accuracy: list[Fraction]

    @property
    def per_class(self) -> list[float]:
        """Accuracy of every class seen so far, in the order of learning."""
        return self.class_accuracy


@dataclass(config=ConfigDict(strict=True), kw_only=True)
class AccuracyRecord(Record):
    """What tables need of the results.json of a classification run."""

    tasks: Annotated[list[AccuracyTask], Field(min_length=1)]

    def matrix(self) -> list[list[float]]:
        """Row t: accuracy on the tasks 0 to t after learning task t; joint training has one row of all tasks."""
        return [task.accuracy for task in self.tasks]

    def acc(self) -> float:
        """Mean accuracy of all tasks after the last one (Eq. 11)."""
        return summarise(self.matrix(), self.joint)["acc"]

    def bwt(self) -> float | None:
        """Backward transfer (Eq. 12): mean change of the earlier tasks since each was learnt; None for one task."""
        return summarise(self.matrix(), self.joint)["bwt"]

    def learnt(self) -> float:
        """Mean accuracy of the tasks when each was learnt: plasticity, where BWT is stability."""
        found = self.tasks[0].accuracy if self.joint else [task.accuracy[-1] for task in self.tasks]
        return sum(found) / len(found)

    def means(self) -> list[float]:
        """After each task the mean over the tasks so far (Fig. 4a, b)."""
        return [sum(row) / len(row) for row in self.matrix()]


class AccuracyScores(Scores):
    """Accuracy of every task, the task of an image being told."""

    record = AccuracyRecord
    published = ("ACC", "BWT")

    def task_result(self, task: "Task", confusion: "ConfusionMatrix", groups: list[list[int]]) -> dict[str, Any]:
        """See `accuracies`."""
        return accuracies(task, confusion, groups)

    def summary(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """See `summarise`."""
        return summarise([task["accuracy"] for task in tasks], joint=len(tasks[0]["accuracy"]) > 1)

    def brief(self, result: dict[str, Any]) -> str:
        """Accuracy of the newest task, and the mean."""
        found = result["accuracy"]
        return f"accuracy {percent(found[-1])}, mean over tasks so far {percent(sum(found) / len(found))}"

    def run_table(self, results: dict[str, Any]) -> str:
        """See `accuracy_table`."""
        return accuracy_table(results)

    def score_table(self, result: dict[str, Any]) -> str:
        """The accuracy of every task so far."""
        rows = [[str(number), percent(value)] for number, value in enumerate(result["accuracy"])]
        return markdown(["task", "accuracy"], rows)
