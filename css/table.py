"""The table of a recipe: mean and standard deviation over seeds, from results.json alone, as text and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar, Protocol

from css import config as settings
from css.files import write_text
from css.kinds import kind_of
from css.recipe import Cell, Recipe
from css.record import Record
from css.report import comma_separated, latex, markdown, percent

Moments = tuple[float, float | None] | None  # mean and standard deviation; None: no number
_NOT_CONSTANT = ("method", "options", "protocol", "seed")


@dataclass(frozen=True)
class Line:
    """One line of the table: a row of the recipe in one protocol, with the records of its finished seeds."""

    protocol: str
    label: str
    records: list[Record]
    wanted: int  # seeds; 0 for a line that only a paper has
    published: dict[str, tuple[float, ...] | None]  # in %, by source

    def over_seeds(self, value: Callable[[Record], float | None]) -> Moments:
        """Mean and sample deviation; None without a run, or where a run has no such number."""
        values = [value(record) for record in self.records]
        if not values or None in values:
            return None
        return mean(values), stdev(values) if len(values) > 1 else None

    @property
    def seeds(self) -> str:
        """How many are finished, and of how many if some are not."""
        if not self.wanted:
            return "-"
        return str(self.wanted) if len(self.records) == self.wanted else f"{len(self.records)}/{self.wanted}"

    def seconds(self) -> Moments:
        return self.over_seeds(Record.later_seconds)


class Columns(Protocol):
    """What tables of one kind of labels show."""

    scores: ClassVar[dict[str, tuple[str, Callable[[Record], float | None]]]]  # name: title, value after the last task
    published: ClassVar[tuple[str, ...]]  # what a paper's numbers are
    legend: ClassVar[str]
    as_published: ClassVar[str]  # said if no setting differs

    def preset(self, dataset: str) -> str:
        """The data set whose preset holds the published settings."""

    def tasks(self, lines: list[Line]) -> str:
        """Scores after every task, of lines with finished runs of one protocol."""

    def classes(self, lines: list[Line]) -> str:
        """Scores of classes after the last task."""

    def draw(self, folder: Path, protocol: str, lines: list[Line]) -> None: ...


def write_table(recipe: Recipe, cells: Sequence[Cell], records: dict[str, Record], folder: Path) -> str:
    """Writes table.md, .csv, .tex, table-tasks.md, table-classes.md and the pictures; returns table.md.

    `records`: of the finished cells, by name of the cell. The same records give the same files, byte for byte.
    """
    lines, columns = make_lines(recipe, cells, records), kind_of(recipe.dataset).columns
    title, caption = recipe.title or folder.name, make_caption(recipe, cells)
    header, rows = _main_table(recipe, lines, columns)
    text = "\n\n".join([title, markdown(header, rows), *caption]) + "\n"
    write_text(folder / "table.md", text)
    write_text(folder / "table.tex", latex(header, rows, " ".join([f"{title}.", *caption])))
    write_text(folder / "table.csv", comma_separated(*_numbers(recipe, lines, columns)))
    write_text(folder / "table-tasks.md", _sections(title, recipe, lines, columns.tasks))
    write_text(folder / "table-classes.md", _sections(title, recipe, lines, columns.classes))
    for protocol in recipe.protocols:
        if shown := [line for line in lines if line.protocol == protocol and line.records]:
            columns.draw(folder, protocol, shown)
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
    columns, config = kind_of(recipe.dataset).columns, cells[0].config
    seeds = ", ".join(map(str, recipe.seeds))
    sentences = [
        f"{columns.legend}; mean ± standard deviation over seeds ({seeds}). s = seconds of training in the tasks after "
        "the first, which is learnt once for all methods (joint training: of its only task)."
    ]
    changed = settings.differences(_constant(config), _constant(settings.preset(columns.preset(config.dataset))))
    sentences.append(
        f"Settings that differ from the published ones (there): {'; '.join(changed)}."
        if changed
        else columns.as_published
    )
    if options := dict.fromkeys(filter(None, map(_options, cells))):
        sentences.append(f"Options that differ from the methods' presets: {'; '.join(options)}.")
    shown = " / ".join(columns.published)
    sentences += [f"{name}: {shown}. {source.note}".strip() for name, source in recipe.published.items()]
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


def _main_table(recipe: Recipe, lines: list[Line], columns: Columns) -> tuple[list[str], list[list[str]]]:
    titles, values = zip(*columns.scores.values(), strict=True)
    header = ["protocol", "method", "seeds", *titles, "s", *recipe.published]
    rows = [
        [line.protocol, line.label, line.seeds, *(text(line.over_seeds(value)) for value in values),
         f"{line.seconds()[0]:.0f}" if line.records else "-", *map(_listed, line.published.values())]
        for line in lines
    ]  # fmt: skip
    return header, rows


def text(moments: Moments) -> str:
    """In %, for a table."""
    if moments is None:
        return "-"
    return percent(moments[0]) + (f" ± {percent(moments[1])}" if moments[1] is not None else "")


def _listed(numbers: tuple[float, ...] | None) -> str:
    return " / ".join(f"{number:.2f}" for number in numbers) if numbers else "-"


def _numbers(recipe: Recipe, lines: list[Line], columns: Columns) -> tuple[list[str], list[list[str]]]:
    """For programs: one number per cell, scores in % with 4 digits, an empty cell where there is none."""
    scores = [f"{name}_{moment}" for name in columns.scores for moment in ("mean", "std")]
    published = [f"{source} {group}" for source in recipe.published for group in columns.published]
    rows = []
    for line in lines:
        row = [line.protocol, line.label, str(len(line.records)), str(line.wanted)]
        for _, score in columns.scores.values():
            moments = line.over_seeds(score)
            row += ["" if value is None else f"{100 * value:.4f}" for value in moments or (None, None)]
        row.append(f"{line.seconds()[0]:.1f}" if line.records else "")
        for numbers in line.published.values():
            row += [f"{number:.2f}" for number in numbers] if numbers else [""] * len(columns.published)
        rows.append(row)
    return ["protocol", "method", "seeds", "seeds_wanted", *scores, "seconds_mean", *published], rows


def _sections(title: str, recipe: Recipe, lines: list[Line], table: Callable[[list[Line]], str]) -> str:
    """One section per protocol that has finished runs."""
    parts = [f"{title}: in %, mean ± standard deviation over finished seeds"]
    for protocol in recipe.protocols:
        if shown := [line for line in lines if line.protocol == protocol and line.records]:
            parts.append(f"## {protocol}\n\n{table(shown)}")
    return "\n\n".join(parts) + "\n"
