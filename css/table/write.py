"""The table of a recipe: mean and standard deviation over seeds, from results.json alone, as text and pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from css.config.compare import differences
from css.config.files import as_dict
from css.config.settings import RunConfig
from css.recipe.cells import Cell
from css.recipe.plan import Recipe
from css.report.record import Record
from css.report.text import comma_separated, latex, markdown
from css.run.presets import preset
from css.system.files import write_text
from css.table.choice import columns_of
from css.table.columns import Columns
from css.table.line import Line, text
from css.table.page import write_table_page

_NOT_CONSTANT = ("method", "options", "protocol", "seed")


def write_table(recipe: Recipe, cells: Sequence[Cell], records: dict[str, Record], folder: Path) -> str:
    """Writes table.md, .csv, .tex, table-tasks.md, table-classes.md, report.html and the pictures; returns table.md.

    `records`: of the finished cells, by name of the cell. The same records give the same files, byte for byte.
    """
    lines, columns = make_lines(recipe, cells, records), columns_of(recipe.dataset)
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
    write_table_page(folder, title, caption, header, rows, lines, columns)
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
    columns, config = columns_of(recipe.dataset), cells[0].config
    seeds = ", ".join(map(str, recipe.seeds))
    sentences = [
        f"{columns.legend}; mean ± standard deviation over seeds ({seeds}). s = seconds of training in the tasks after "
        "the first, which is learnt once for all methods (joint training: of its only task)."
    ]
    changed = differences(_constant(config), _constant(preset(columns.preset(config.dataset))))
    sentences.append(
        f"Settings that differ from the published ones (there): {'; '.join(changed)}."
        if changed
        else columns.as_published
    )
    if own := dict.fromkeys(filter(None, map(_own_settings, cells))):
        sentences.append(f"Methods with settings of their own (the others' there): {'; '.join(own)}.")
    if options := dict.fromkeys(filter(None, map(_options, cells))):
        sentences.append(f"Options that differ from the methods' presets: {'; '.join(options)}.")
    shown = " / ".join(columns.published)
    sentences += [f"{name}: {shown}. {source.note}".strip() for name, source in recipe.published.items()]
    return sentences


def _constant(config: RunConfig) -> dict[str, Any]:
    """What a table holds constant; the precision is left to the machine."""
    values = {key: value for key, value in as_dict(config).items() if key not in _NOT_CONSTANT}
    return {**values, "train": {key: value for key, value in values["train"].items() if key != "precision"}}


def _own_settings(cell: Cell) -> str:
    """What a method sets of the training by default; empty if nothing."""
    mine, usual = (
        {"train": as_dict(preset(cell.config.dataset, name))["train"]} for name in (cell.config.method, "finetune")
    )
    changed = "; ".join(text.removeprefix("train.") for text in differences(mine, usual))
    return f"{cell.config.method}: {changed}" if changed else ""


def _options(cell: Cell) -> str:
    """The options of a cell in which it differs from its method's preset; empty if in none."""
    default = as_dict(preset(cell.config.dataset, cell.config.method))
    mine = as_dict(cell.config)
    changed = differences({"options": mine["options"]}, {"options": default["options"]})
    shown = "; ".join(text.removeprefix("options.") for text in changed)
    return f"{cell.label} {cell.config.protocol}: {shown}" if changed else ""


def _main_table(recipe: Recipe, lines: list[Line], columns: Columns) -> tuple[list[str], list[list[str]]]:
    titles, values = zip(*columns.scores.values(), strict=True)
    header = ["protocol", "method", "seeds", *titles, "s", *recipe.published]
    rows = [
        [line.protocol, line.label, line.seeds, *(text(line.over_seeds(value)) for value in values),
         _seconds(line, 0) or "-", *map(_listed, line.published.values())]
        for line in lines
    ]  # fmt: skip
    return header, rows


def _seconds(line: Line, digits: int) -> str:
    """Of training, mean over seeds; empty without a run."""
    moments = line.seconds()
    return "" if moments is None else f"{moments[0]:.{digits}f}"


def _listed(numbers: tuple[float | None, ...] | None) -> str:
    return " / ".join("-" if number is None else f"{number:.2f}" for number in numbers) if numbers else "-"


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
        row.append(_seconds(line, 1))
        for numbers in line.published.values():
            known = numbers or [None] * len(columns.published)
            row += ["" if number is None else f"{number:.2f}" for number in known]
        rows.append(row)
    return ["protocol", "method", "seeds", "seeds_wanted", *scores, "seconds_mean", *published], rows


def _sections(title: str, recipe: Recipe, lines: list[Line], table: Callable[[list[Line]], str]) -> str:
    """One section per protocol that has finished runs."""
    parts = [f"{title}: in %, mean ± standard deviation over finished seeds"]
    finished = {name: [line for line in lines if line.protocol == name and line.records] for name in recipe.protocols}
    parts += [f"## {protocol}\n\n{table(shown)}" for protocol, shown in finished.items() if shown]
    return "\n\n".join(parts) + "\n"
