"""The table of a recipe: mean and standard deviation over seeds, from results.json alone, as text and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from css import config as settings
from css.curves import draw_curves, draw_forgetting
from css.files import write_text
from css.recipe import Cell, Recipe
from css.record import Record
from css.report import TITLES, comma_separated, latex, markdown, percent
from css.results import GROUPS

Moments = tuple[float, float | None] | None  # mean and standard deviation; None: no number
_NOT_CONSTANT = ("method", "options", "protocol", "seed")
_SHOWN_AFTER_TASKS = ("old", "old_no_bg", "new", "all", "all_no_bg")


@dataclass(frozen=True)
class Line:
    """One line of the table: a row of the recipe in one protocol, with the records of its finished seeds."""

    protocol: str
    label: str
    records: list[Record]
    wanted: int  # seeds; 0 for a line that only a paper has
    published: dict[str, tuple[float, float, float] | None]  # old, new, all in % by source

    def over_seeds(self, value: Callable[[Record], float | None]) -> Moments:
        """Mean and sample deviation; None without a run, or where a run has no such number."""
        values = [value(record) for record in self.records]
        if not values or None in values:
            return None
        return mean(values), stdev(values) if len(values) > 1 else None

    def groups(self) -> dict[str, Moments]:
        """By GROUPS and "avg", of the last task."""
        found = {group: self.over_seeds(lambda record, group=group: record.means()[group]) for group in GROUPS}
        return {**found, "avg": self.over_seeds(Record.average)}

    def seconds(self) -> Moments:
        return self.over_seeds(Record.later_seconds)


def write_table(recipe: Recipe, cells: Sequence[Cell], records: dict[str, Record], folder: Path) -> str:
    """Writes table.md, .csv, .tex, table-tasks.md, table-classes.md and the pictures; returns table.md.

    `records`: of the finished cells, by name of the cell. The same records give the same files, byte for byte.
    """
    lines = make_lines(recipe, cells, records)
    title, caption = recipe.title or folder.name, make_caption(recipe, cells)
    header, rows = _main_table(recipe, lines)
    text = "\n\n".join([title, markdown(header, rows), *caption]) + "\n"
    write_text(folder / "table.md", text)
    write_text(folder / "table.tex", latex(header, rows, " ".join([f"{title}.", *caption])))
    write_text(folder / "table.csv", comma_separated(*_numbers(recipe, lines)))
    write_text(folder / "table-tasks.md", _sections(title, recipe, lines, _task_tables))
    write_text(folder / "table-classes.md", _sections(title, recipe, lines, _class_table))
    for protocol in recipe.protocols:
        _draw(folder, protocol, [line for line in lines if line.protocol == protocol and line.records])
    return text


def make_lines(recipe: Recipe, cells: Sequence[Cell], records: dict[str, Record]) -> list[Line]:
    """By protocol, then in the order of the recipe, then what only a paper has."""
    ours = {cell.line: [other for other in cells if other.line == cell.line] for cell in cells}
    lines = []
    for protocol in recipe.protocols:
        labels = [label for their_protocol, label in ours if their_protocol == protocol]
        theirs = [
            label for source in recipe.published.values() for label in source.rows if protocol in source.rows[label]
        ]
        for label in dict.fromkeys([*labels, *theirs]):
            seeds = ours.get((protocol, label), [])
            found = [records[cell.name] for cell in seeds if cell.name in records]
            published = {name: source.rows.get(label, {}).get(protocol) for name, source in recipe.published.items()}
            lines.append(Line(protocol, label, found, len(seeds), published))
    return lines


def make_caption(recipe: Recipe, cells: Sequence[Cell]) -> list[str]:
    """What the numbers are, which settings and options differ from the published ones, notes on published numbers."""
    seeds = ", ".join(map(str, recipe.seeds))
    sentences = [
        f"mIoU in % after the last task, mean ± standard deviation over seeds ({seeds}). old = classes of the first "
        "task, background included (w/o bg: left out); new = classes of the later tasks; avg = mean of all over the "
        "tasks, the first included; s = seconds of training in the tasks after the first, which is learnt once for all "
        "methods (joint training: of its only task)."
    ]
    changed = settings.differences(_constant(cells[0].config), _constant(settings.preset("voc")))
    sentences.append(
        f"Settings that differ from the published ones (there): {'; '.join(changed)}."
        if changed
        else "Settings as published: ResNet-101 from ImageNet, 512 px, 30 epochs, batches of 24 as 2 x 12, "
        "learning rate 0.01, then 0.001, overlap."
    )
    if options := dict.fromkeys(filter(None, map(_options, cells))):
        sentences.append(f"Options that differ from the methods' presets: {'; '.join(options)}.")
    sentences += [f"{name}: old / new / all. {source.note}".strip() for name, source in recipe.published.items()]
    return sentences


def _constant(config: settings.RunConfig) -> dict[str, Any]:
    """What a table holds constant; the precision is left to the machine."""
    values = {key: value for key, value in settings.as_dict(config).items() if key not in _NOT_CONSTANT}
    return {**values, "train": {key: value for key, value in values["train"].items() if key != "precision"}}


def _options(cell: Cell) -> str:
    """The options of a cell in which it differs from its method's preset; empty if in none."""
    default = settings.as_dict(settings.preset(cell.config.dataset, cell.config.method))
    mine = settings.as_dict(cell.config)
    changed = settings.differences({"options": mine["options"]}, {"options": default["options"]})
    shown = "; ".join(text.removeprefix("options.") for text in changed)
    return f"{cell.label} {cell.config.protocol}: {shown}" if changed else ""


def _main_table(recipe: Recipe, lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    header = ["protocol", "method", "seeds", *TITLES.values(), "avg", "s", *recipe.published]
    rows = [
        [line.protocol, line.label, _seeds(line), *map(_text, line.groups().values()),
         f"{line.seconds()[0]:.0f}" if line.records else "-", *map(_triple, line.published.values())]
        for line in lines
    ]  # fmt: skip
    return header, rows


def _seeds(line: Line) -> str:
    if not line.wanted:
        return "-"
    return str(line.wanted) if len(line.records) == line.wanted else f"{len(line.records)}/{line.wanted}"


def _text(moments: Moments) -> str:
    if moments is None:
        return "-"
    return percent(moments[0]) + (f" ± {percent(moments[1])}" if moments[1] is not None else "")


def _triple(numbers: tuple[float, float, float] | None) -> str:
    return " / ".join(f"{number:.2f}" for number in numbers) if numbers else "-"


def _numbers(recipe: Recipe, lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """For programs: one number per cell, mIoU in % with 4 digits, an empty cell where there is none."""
    scores = [f"{name}_{moment}" for name in (*GROUPS, "avg") for moment in ("mean", "std")]
    published = [f"{source} {group}" for source in recipe.published for group in ("old", "new", "all")]
    rows = []
    for line in lines:
        row = [line.protocol, line.label, str(len(line.records)), str(line.wanted)]
        for moments in line.groups().values():
            row += ["" if value is None else f"{100 * value:.4f}" for value in moments or (None, None)]
        row.append(f"{line.seconds()[0]:.1f}" if line.records else "")
        for numbers in line.published.values():
            row += [f"{number:.2f}" for number in numbers] if numbers else ["", "", ""]
        rows.append(row)
    return ["protocol", "method", "seeds", "seeds_wanted", *scores, "seconds_mean", *published], rows


def _sections(title: str, recipe: Recipe, lines: list[Line], table: Callable[[list[Line]], str]) -> str:
    """One section per protocol that has finished runs."""
    parts = [f"{title}: IoU in %, mean ± standard deviation over finished seeds"]
    for protocol in recipe.protocols:
        if shown := [line for line in lines if line.protocol == protocol and line.records]:
            parts.append(f"## {protocol}\n\n{table(shown)}")
    return "\n\n".join(parts) + "\n"


def _task_tables(lines: list[Line]) -> str:
    """One table per group of classes: methods by tasks. A joint run stands below the last task."""
    count = max(len(record.protocol_groups) for line in lines for record in line.records)
    parts = []
    for group in _SHOWN_AFTER_TASKS:
        rows = []
        for line in lines:
            tasks = len(line.records[0].tasks)
            cells = [_text(line.over_seeds(lambda record, t=task: record.means(t)[group])) for task in range(tasks)]  # noqa: B023
            rows.append([line.label, _seeds(line), *["-"] * (count - tasks), *cells])
        parts.append(f"{TITLES[group]}:\n\n" + markdown(["after task", "seeds", *map(str, range(count))], rows))
    return "\n\n".join(parts)


def _class_table(lines: list[Line]) -> str:
    """Classes by methods, after the last task."""
    record = lines[0].records[0]
    rows = [
        [record.class_names[c], *(_text(line.over_seeds(lambda record, c=c: record.final_iou()[c])) for line in lines)]
        for c in record.class_order
    ]
    return markdown(["class", *(f"{line.label} ({_seeds(line)})" for line in lines)], rows)


def _draw(folder: Path, protocol: str, lines: list[Line]) -> None:
    if not lines:
        return
    curves = {
        line.label: {
            group: np.array([[_number(r.means(t)[group]) for t in range(len(r.tasks))] for r in line.records])
            for group in ("old", "new", "all")
        }
        for line in lines
    }
    draw_curves(folder / f"curves-{protocol}.png", f"{protocol}: mIoU after each task", curves)
    learning = [line for line in lines if not line.records[0].joint]
    if learning:
        record = learning[0].records[0]
        classes = [
            c for group in record.protocol_groups[:-1] for c in group
        ]  # the last ones had no time to be forgotten
        lost = np.array([
            [_number((line.over_seeds(lambda r, c=c: r.forgetting()[c]) or (None,))[0]) for c in classes]
            for line in learning
        ])  # fmt: skip
        names = [record.class_names[c] for c in classes]
        title = f"{protocol}: IoU when learnt minus IoU at the end"
        draw_forgetting(folder / f"forgetting-{protocol}.png", title, [line.label for line in learning], names, lost)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
