"""Which scores a run has, and its results.json read and checked as such."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from css.report.classification import AccuracyScores
from css.report.record import Record
from css.report.results import read_results
from css.report.scores import Scores
from css.report.segmentation import IouScores
from tasks import InputError
from tasks.datasets.registry import labels_of


def scores_of(dataset: str) -> Scores:
    """Those of a data set, by its name. Raises InputError for an unknown one."""
    return IouScores() if labels_of(dataset) == "pixels" else AccuracyScores()


def _scores_in(results: dict[str, Any]) -> Scores:
    """Those that results.json holds, whether or not its data set is known here."""
    tasks = results["tasks"]
    first = tasks[0] if isinstance(tasks, list) and tasks else None
    return AccuracyScores() if isinstance(first, dict) and "accuracy" in first else IouScores()


def run_table(results: dict[str, Any]) -> str:
    """The table of a run, as suits its labels."""
    return _scores_in(results).run_table(results)


def read_record(folder: Path) -> Record:
    """results.json of a run folder. Raises InputError if it is not there, not ours, or contradicts itself."""
    path, values = folder / "results.json", read_results(folder)
    try:
        record = TypeAdapter(_scores_in(values).record).validate_json(json.dumps(values))
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
    """Raises InputError if `run_table` could not show the results.json of a run folder."""
    record, path = read_record(folder), folder / "results.json"
    if missing := {"dataset", "protocol", "setting", "method", "seed"} - record.config.keys():
        raise _damaged(path, f"config lacks {min(missing)}")
    try:
        run_table(read_results(folder))
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"it lacks {error}") from None


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is not what this program wrote ({reason}); restore it, or delete its run folder.")
