"""Tables and pictures of classification streams: accuracy of tasks, ACC and BWT."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from css.report.classification import AccuracyRecord, AccuracyScores
from css.report.text import markdown
from css.table.columns import Columns
from css.table.curves import draw_accuracies
from css.table.line import Line, Score, text


class AccuracyColumns(Columns):
    """Accuracy of tasks, ACC and BWT."""

    scores: ClassVar[Mapping[str, tuple[str, Score]]] = {
        "acc": ("ACC", AccuracyRecord.acc),
        "bwt": ("BWT", AccuracyRecord.bwt),
        "learnt": ("when learnt", AccuracyRecord.learnt),
    }
    main = "acc"
    published = AccuracyScores.published
    legend = (
        "Accuracy in %, the task of an image is told: ACC = mean over all tasks after the last one, BWT = mean change "
        "of the earlier tasks since each was learnt, when learnt = mean of the tasks just after each was learnt"
    )
    as_published = "Settings as Adam-NSCL and Connector publish them."

    def preset(self, dataset: str) -> str:
        """Its own: there is one for every data set of image labels."""
        return dataset

    def tasks(self, lines: list[Line]) -> str:
        """The mean over the tasks so far, after every task, and every task's accuracy in the end."""
        count = max(len(record.protocol_groups) for line in lines for record in line.records)
        header = ["", "seeds", *map(str, range(count))]
        means, final = [], []
        for line in lines:
            tasks = len(line.records[0].means())
            shown = [text(line.over_seeds(_mean_after(task))) for task in range(tasks)]
            means.append([line.label, line.seeds, *["-"] * (count - tasks), *shown])
            found = [text(line.over_seeds(_in_the_end(task))) for task in range(count)]
            final.append([line.label, line.seeds, *found])
        return (
            f"Mean accuracy of the tasks so far, after task:\n\n{markdown(header, means)}\n\n"
            f"Accuracy after the last task, of task:\n\n{markdown(header, final)}"
        )

    def classes(self, lines: list[Line]) -> str:
        """Classes by methods: accuracy after the last task."""
        record = lines[0].records[0]
        rows = [
            [record.class_names[c], *(text(line.over_seeds(_of_class(place))) for line in lines)]
            for place, c in enumerate(record.class_order)
        ]
        return markdown(["class", *(f"{line.label} ({line.seeds})" for line in lines)], rows)

    def over_tasks(self, record: AccuracyRecord) -> list[float | None]:
        """Mean accuracy of the tasks so far, after every task."""
        return [*record.means()]

    def draw(self, folder: Path, protocol: str, lines: list[Line]) -> None:
        """The mean accuracy of the tasks so far, after every task, one line per method."""
        curves = {line.label: np.array([record.means() for record in line.records]) for line in lines}
        draw_accuracies(folder / f"curves-{protocol}.png", f"{protocol}: mean accuracy of the tasks so far", curves)


def _mean_after(task: int) -> Score:
    return lambda record: record.means()[task]


def _in_the_end(task: int) -> Score:
    return lambda record: record.matrix()[-1][task]


def _of_class(place: int) -> Score:
    return lambda record: record.tasks[-1].per_class[place]
