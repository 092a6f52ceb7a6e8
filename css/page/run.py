"""report.html of a run: what was learnt, what was forgotten and what it is taken for, in one file for anybody."""

from pathlib import Path
from typing import Any

from css.page import facts
from css.page.charts import line_chart
from css.page.command import run_command
from css.page.losses import draw_losses, read_losses
from css.page.pictures import example_rows, strip
from css.page.render import write_page
from css.report.record import training_seconds
from css.report.results import read_results
from css.report.segmentation import TITLES

REPORT = "report.html"
_LARGEST = 40  # classes; beyond them a confusion matrix cannot be read


def write_run_page(folder: Path) -> Path:
    """Writes report.html of a run folder, finished or not; returns its path.

    It is made from results.json, log.jsonl and the pictures of the last task; without the last two it lacks their
    sections.

    Raises InputError if results.json is not there, or if the folder cannot be written.
    """
    results = read_results(folder)
    fates, last = facts.class_fates(results), results["tasks"][-1]
    pixels, home = "iou" in last, folder / f"task_{last['index']}"
    confusion = facts.heat_of_confusion(results)
    write_page(
        folder / REPORT, "run.html",
        results=results, config=results["config"], name=folder.name, pixels=pixels,
        what="IoU" if pixels else "accuracy",
        short=facts.in_short(results, fates),
        tasks=_task_rows(results), titles=TITLES,
        curves=_curves(results),
        heat=facts.heat_over_tasks(results) if len(results["tasks"]) > 1 else None,
        fates=facts.forgotten(fates, last["index"]),
        confusion=confusion if confusion and len(confusion.rows) <= _LARGEST else None,
        losses=draw_losses(read_losses(folder / "log.jsonl")),
        examples=example_rows(home, last.get("pictures", []), results["class_names"]),
        strip=strip(home / "pictures.png", "The same test images after every task: image, ground truth, predictions"),
        settings=facts.flat(results["config"]), command=run_command(results["config"]),
        surroundings=facts.flat({key: results.get(key, {}) for key in ("versions", "hardware")}),
    )  # fmt: skip
    return folder / REPORT


def _task_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What the table of tasks shows, one entry per task; scores in %."""
    rows = []
    for task in results["tasks"]:
        found = task.get("accuracy")
        scores = {name: _percent(task["groups"][name]) for name in TITLES} if found is None else {
            "this task": _percent(found[-1]), "tasks so far": _percent(sum(found) / len(found))
        }  # fmt: skip
        rows.append({
            "index": task["index"], "scores": scores, "seconds": training_seconds(task.get("seconds", {})),
            "train": task["train_images"], "test": task["test_images"], "memory": task.get("peak_memory_mb"),
            "classes": [results["class_names"][c] for c in task["new_classes"]],
        })  # fmt: skip
    return rows


def _curves(results: dict[str, Any]) -> Any:
    tasks = results["tasks"]
    if len(tasks) < 2:
        return None
    if "groups" not in tasks[0]:
        lines = {
            f"task {number}": [(t["index"], 100 * t["accuracy"][number]) for t in tasks if number < len(t["accuracy"])]
            for number in range(len(tasks))
        }
        return line_chart("Accuracy of every task after each task", lines, "after task", "accuracy in %", dots=True)
    lines = {
        TITLES[name]: [(t["index"], 100 * t["groups"][name]) for t in tasks if t["groups"][name] is not None]
        for name in ("all", "all_no_bg", "old", "new")
    }
    return line_chart("Mean IoU after each task", lines, "after task", "mIoU in %", dots=True)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
