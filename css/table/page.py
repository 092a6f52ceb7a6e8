"""report.html of a table: every seed as a dot, differences between methods seed by seed, curves over tasks."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from markupsafe import Markup

from css.page.charts import dot_chart, line_chart
from css.page.render import write_page
from css.page.run import REPORT
from css.report.record import Record
from css.table.columns import Columns
from css.table.line import Line


class Difference(NamedTuple):
    """Method of a row minus method of a column, over the seeds that both have; in points."""

    mean: float
    deviation: float | None  # None for a single seed
    above: int  # seeds in which it is larger than 0
    seeds: int


class Section(NamedTuple):
    """What a page shows of one protocol."""

    protocol: str
    dots: list[Markup]
    curves: Markup
    labels: list[str]
    differences: list[tuple[str, list[Difference | None]]]


def write_table_page(folder: Path, title: str, caption: Sequence[str], header: Sequence[str],
                     rows: Sequence[Sequence[str]], lines: Sequence[Line], columns: Columns) -> None:  # fmt: skip
    """Writes report.html of a table.

    Args:
        folder: Of the table.
        title: What the table shows.
        caption: What its numbers are, in sentences.
        header: Of the main table.
        rows: Of the main table.
        lines: Its lines with the records of finished seeds; those without any are in the main table alone.
        columns: What is shown of a record.
    """
    shown = [line for line in lines if line.records]
    sections = [
        _section(protocol, [line for line in shown if line.protocol == protocol], columns)
        for protocol in dict.fromkeys(line.protocol for line in shown)
    ]
    main = columns.scores[columns.main][0]
    write_page(folder / REPORT, "table.html", title=title, caption=caption, header=header, rows=rows,
               sections=sections, main=main)  # fmt: skip


def paired(first: Line, second: Line, columns: Columns) -> Difference | None:
    """The difference of the main score over the seeds that both lines have; None if there are none."""
    ours, theirs = (_by_seed(line, columns) for line in (first, second))
    found = [100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs]
    if not found:
        return None
    deviation = stdev(found) if len(found) > 1 else None
    return Difference(fmean(found), deviation, sum(value > 0 for value in found), len(found))


def _by_seed(line: Line, columns: Columns) -> dict[int, float]:
    score = columns.scores[columns.main][1]
    values = {record.config["seed"]: score(record) for record in line.records}
    return {seed: value for seed, value in values.items() if value is not None}


def _section(protocol: str, lines: Sequence[Line], columns: Columns) -> Section:
    dots = []
    for title, score in columns.scores.values():
        if title in columns.published:
            values = {line.label: _percents([score(record) for record in line.records]) for line in lines}
            dots.append(dot_chart(f"{title}, {protocol}: every seed, mean and deviation", values, f"{title} in %"))
    curves = {line.label: _curve(line.records, columns) for line in lines}
    tasks = max(len(curve) for curve in curves.values())
    curves = {label: curve if len(curve) == tasks else _level(curve, tasks) for label, curve in curves.items()}
    title = f"{columns.scores[columns.main][0]} after each task, {protocol}: means over seeds"
    chart = line_chart(title, curves, "after task", "in %", dots=True) if tasks > 1 else Markup()
    differences = [
        (first.label, [None if first is second else paired(first, second, columns) for second in lines])
        for first in lines
    ]
    return Section(protocol, dots, chart, [line.label for line in lines], differences)


def _curve(records: Sequence[Record], columns: Columns) -> list[tuple[float, float]]:
    """Means over seeds after each task; tasks without a number in one of them are left out."""
    by_task = zip(*(columns.over_tasks(record) for record in records), strict=False)
    return [(task, fmean(_percents(values))) for task, values in enumerate(by_task) if None not in values]


def _level(curve: list[tuple[float, float]], tasks: int) -> list[tuple[float, float]]:
    """Joint training, which has one task: its last value at all of them."""
    return [(task, curve[-1][1]) for task in range(tasks)] if curve else []


def _percents(values: Sequence[float | None]) -> list[float]:
    return [100 * value for value in values if value is not None]
