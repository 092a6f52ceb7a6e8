"""Tables and pictures of segmentation streams: mean IoU of groups of classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from css.report.segmentation import GROUPS, TITLES, IouRecord, IouScores
from css.report.text import markdown
from css.table.columns import Columns
from css.table.curves import draw_curves, draw_forgetting
from css.table.line import Line, Score, text

_SHOWN_AFTER_TASKS = ("old", "old_no_bg", "new", "all", "all_no_bg")


def _mean_of(group: str, task: int = -1) -> Score:
    return lambda record: record.means(task)[group]


def _iou_of(class_id: int) -> Score:
    return lambda record: record.final_iou()[class_id]


def _lost_of(class_id: int) -> Score:
    return lambda record: record.forgetting()[class_id]


class IouColumns(Columns):
    """Mean IoU of every group of classes."""

    scores: ClassVar[Mapping[str, tuple[str, Score]]] = {
        **{group: (TITLES[group], _mean_of(group)) for group in GROUPS},
        "avg": ("avg", IouRecord.average),
    }
    main = "all"
    published = IouScores.published
    legend = (
        "mIoU in % after the last task: old = classes of the first task, background included (w/o bg: left out), new = "
        "classes of the later tasks, avg = mean of all over the tasks, the first included"
    )
    as_published = (
        "Settings as published: ResNet-101 from ImageNet, 512 px, 30 epochs, batches of 24 as 2 x 12, learning rate "
        "0.01, then 0.001, overlap."
    )

    def preset(self, dataset: str) -> str:
        """VOC's, whatever the data set: that is what was published."""
        return "voc"

    def tasks(self, lines: list[Line]) -> str:
        """One table per group of classes: methods by tasks. A joint run stands below the last task."""
        count = max(len(record.protocol_groups) for line in lines for record in line.records)
        parts = []
        for group in _SHOWN_AFTER_TASKS:
            rows = []
            for line in lines:
                tasks = len(line.records[0].tasks)
                cells = [text(line.over_seeds(_mean_of(group, task))) for task in range(tasks)]
                rows.append([line.label, line.seeds, *["-"] * (count - tasks), *cells])
            parts.append(f"{TITLES[group]}:\n\n" + markdown(["after task", "seeds", *map(str, range(count))], rows))
        return "\n\n".join(parts)

    def classes(self, lines: list[Line]) -> str:
        """Classes by methods, after the last task."""
        record = lines[0].records[0]
        rows = [
            [record.class_names[c], *(text(line.over_seeds(_iou_of(c))) for line in lines)] for c in record.class_order
        ]
        return markdown(["class", *(f"{line.label} ({line.seeds})" for line in lines)], rows)

    def over_tasks(self, record: IouRecord) -> list[float | None]:
        """Mean IoU over all classes after every task."""
        return [record.means(task)["all"] for task in range(len(record.tasks))]

    def draw(self, folder: Path, protocol: str, lines: list[Line]) -> None:
        """Curves of old, new and all classes, and which classes the methods have lost how much of."""
        curves = {
            line.label: {
                group: np.array([[_number(r.means(t)[group]) for t in range(len(r.tasks))] for r in line.records])
                for group in ("old", "new", "all")
            }
            for line in lines
        }
        draw_curves(folder / f"curves-{protocol}.png", f"{protocol}: mIoU after each task", curves)
        learning = [line for line in lines if len(line.records[0].tasks) > 1]
        if learning:
            record = learning[0].records[0]
            classes: list[int] = sum(record.protocol_groups[:-1], [])  # the last ones had no time to be forgotten
            lost = np.array([
                [_number((line.over_seeds(_lost_of(c)) or (None,))[0]) for c in classes]
                for line in learning
            ])  # fmt: skip
            names = [record.class_names[c] for c in classes]
            title = f"{protocol}: IoU when learnt minus IoU at the end"
            draw_forgetting(
                folder / f"forgetting-{protocol}.png", title, [line.label for line in learning], names, lost
            )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
