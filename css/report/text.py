"""Tables from results.json, and how tables are written."""

import csv
import io
from collections.abc import Sequence


def percent(value: float | None) -> str:
    """Two digits; "-" where there is no number."""
    return "-" if value is None else f"{100 * value:.2f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, so that it also reads well in a terminal. The first column is text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([first.strip().ljust(widths[0]), *others]) + " |"

    rule = "-" * (widths[0] + 2) + "|" + "|".join("-" * (width + 1) + ":" for width in widths[1:])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Comma-separated values, one line for each row, as RFC 4180 but for the line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A floating table with booktabs' rules, one more between rows whose first cells differ, as wide as the text."""
    lines, before = [], rows[0][0] if rows else ""
    for row in rows:
        if row[0] != before:
            lines.append(r"\midrule")
        before = row[0]
        lines.append(_latex_line(row))
    return "\n".join([
        r"% \usepackage{booktabs,graphicx}", r"\begin{table}", rf"\caption{{{latex_text(caption)}}}",
        r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
        r"\toprule", _latex_line(header), r"\midrule", *lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", "",
    ])  # fmt: skip


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$",
    "<": r"$<$", ">": r"$>$", **{character: f"\\{character}" for character in "#$%&_{}"},
}  # fmt: skip


def latex_text(text: str) -> str:
    """Characters that mean something to LaTeX, escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
