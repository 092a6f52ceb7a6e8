"""Runs of a table as results.json records them, checked: numbers are taken from nothing else."""

import json
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from css import config as settings
from css.kinds import kind_of
from css.metrics import average_over_tasks, group_means
from css.recipe import Cell
from css.report import run_table
from css.results import read_results
from tasks import InputError

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SUMS = ("train", "since_start_or_restart")  # beside the seconds of single stages


@dataclass(config={"strict": True}, kw_only=True)
class Scored:
    """One task: ids of its new classes, and what every kind of task has."""

    new_classes: list[int]
    train_images: int = 0
    test_images: int = 0
    index: int = 0
    seconds: dict[str, Seconds] = field(default_factory=dict)

    @property
    def training_seconds(self) -> float:
        """Of all stages; runs made before stages were timed have the sum over epochs only."""
        stages = [value for name, value in self.seconds.items() if name not in _SUMS]
        return sum(stages) if stages else self.seconds.get("train", 0.0)

    @property
    def per_class(self) -> list[float | None]:
        """A score of every class seen so far, in the order of learning."""
        raise NotImplementedError


@dataclass(config={"strict": True}, kw_only=True)
class TaskRecord(Scored):
    """IoU of every class seen so far (null without ground truth), in the order of learning."""

    iou: list[Fraction | None]
    groups: dict[str, Fraction | None] = field(default_factory=dict)

    @property
    def per_class(self) -> list[float | None]:
        return self.iou


@dataclass(config={"strict": True}, kw_only=True)
class Record:
    """What tables need of results.json."""

    complete: bool
    config: dict[str, Any]
    tasks: Annotated[list[Scored], Field(min_length=1)]
    class_names: list[str]
    class_order: list[int]
    protocol_groups: Annotated[list[list[int]], Field(min_length=1)]
    data_fingerprint: str

    @property
    def joint(self) -> bool:
        return len(self.tasks) < len(self.protocol_groups)

    def later_seconds(self) -> float:
        """Training of the tasks after the first, which several runs may share; of the only task of a joint run."""
        return sum(task.training_seconds for task in (self.tasks if self.joint else self.tasks[1:]))


@dataclass(config={"strict": True}, kw_only=True)
class IouRecord(Record):
    """Of a segmentation run."""

    tasks: Annotated[list[TaskRecord], Field(min_length=1)]
    avg: float | None = None

    def means(self, task: int = -1) -> dict[str, float | None]:
        """Mean IoU of every group after a task (default: the last), from the IoU of its classes."""
        iou = [float("nan") if value is None else value for value in self.tasks[task].iou]
        return group_means(torch.tensor(iou, dtype=torch.float64), len(self.protocol_groups[0]))

    def average(self) -> float | None:
        """Mean over tasks, the first included, of the mean IoU over all classes."""
        means = [self.means(task)["all"] for task in range(len(self.tasks))]
        return None if None in means else average_over_tasks(means)

    def final_iou(self) -> dict[int, float | None]:
        """By class id, after the last task."""
        return dict(zip(self.class_order, self.tasks[-1].iou, strict=False))

    def forgetting(self) -> dict[int, float | None]:
        """By class id: IoU after the task in which the class was learnt minus IoU after the last task."""
        final, lost = self.final_iou(), {}
        for task in self.tasks:
            for class_id, learnt in zip(task.new_classes, task.iou[-len(task.new_classes) :], strict=True):
                known = learnt is not None and final[class_id] is not None
                lost[class_id] = learnt - final[class_id] if known else None
        return lost


def read_record(folder: Path) -> Record:
    """results.json of a run folder. Raises InputError if it is not there, not ours, or contradicts itself."""
    path, values = folder / "results.json", read_results(folder)
    config = values["config"]
    kind = kind_of(config.get("dataset") if isinstance(config, dict) else None)
    try:
        record = TypeAdapter(kind.record).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    seen: list[int] = []
    for index, task in enumerate(record.tasks):
        seen += task.new_classes
        if not task.new_classes or len(task.per_class) != len(seen):
            raise _damaged(path, f"task {index} has scores of {len(task.per_class)} classes instead of {len(seen)}")
    if seen != record.class_order[: len(seen)] or record.class_order != sum(record.protocol_groups, []):
        raise _damaged(path, "tasks, class_order and protocol_groups name different classes")
    if not all(0 <= class_id < len(record.class_names) for class_id in record.class_order):
        raise _damaged(path, "class_order names a class that is not among class_names")
    if record.complete and len(seen) < len(record.class_order):
        raise _damaged(path, f"it is called complete after {len(seen)} of {len(record.class_order)} classes")
    return record


def require_report(folder: Path) -> None:
    """Raises InputError if `report.run_table` could not show the results.json of a run folder."""
    record, path = read_record(folder), folder / "results.json"
    if missing := {"dataset", "protocol", "setting", "method", "seed"} - record.config.keys():
        raise _damaged(path, f"config lacks {min(missing)}")
    try:
        run_table(read_results(folder))
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"it lacks {error}") from None


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is not what this program wrote ({reason}); restore it, or delete its run folder.")


def finished_records(cells: Iterable[Cell]) -> dict[str, Record]:
    """By name of the cell; cells that are not finished are left out."""
    found = {cell.name: read_record(cell.config.folder) for cell in cells if _has_results(cell)}
    return {name: record for name, record in found.items() if record.complete}


def _has_results(cell: Cell) -> bool:
    return (cell.config.folder / "results.json").exists()


def require_agreement(cells: Iterable[Cell]) -> None:
    """Raises InputError if a run folder, finished or not, was made with other settings than the recipe's, or if two
    were made with different data or in different precisions (which a recipe may leave to the machine)."""
    first: tuple[Path, dict[str, Any]] | None = None
    for cell in cells:
        folder = cell.config.folder
        theirs = _made_with(cell)
        if theirs is None:
            continue
        if changed := settings.differences(_expected(cell, theirs), theirs):
            raise InputError(
                f"{folder} does not belong into this table, its settings are not those of the recipe: "
                f"{'; '.join(changed)}. Give the same settings, or another folder (--runs)."
            )
        common = {"train.precision": _precision(theirs), "the data": theirs.get(settings.FINGERPRINT)}
        first = first or (folder, common)
        for key, value in common.items():
            if value != first[1][key]:
                raise InputError(
                    f"{first[0]} and {folder} cannot stand in one table, they disagree in {key} ({first[1][key]} and "
                    f"{value}); delete one of them to compute it again."
                )


def _made_with(cell: Cell) -> dict[str, Any] | None:
    """Settings and fingerprint of the data of a run folder; None if it has not been started."""
    folder = cell.config.folder
    if _has_results(cell):
        record = read_record(folder)
        return record.config | {settings.FINGERPRINT: record.data_fingerprint}
    return settings.read(folder) if (folder / settings.FILE).exists() else None


def _precision(made_with: dict[str, Any]) -> Any:
    train = made_with.get("train")
    return train.get("precision") if isinstance(train, dict) else None


def _expected(cell: Cell, theirs: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings, with what the recipe leaves open as it was in the run."""
    mine = settings.as_dict(cell.config) | {settings.FINGERPRINT: theirs.get(settings.FINGERPRINT)}
    if cell.config.train.precision == "auto":
        mine["train"]["precision"] = _precision(theirs)
    return mine
