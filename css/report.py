"""Tables from results.json, and how tables are written."""

import csv
import io
from collections.abc import Sequence

from css.kinds import kind_of
from css.results import GROUPS

TITLES = {"old": "old", "old_no_bg": "old w/o bg", "new": "new", "all": "all", "all_no_bg": "all w/o bg",
           "harmonic": "harmonic"}  # fmt: skip


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


def run_table(results: dict) -> str:
    """The table of a run, as suits its labels."""
    return kind_of(results["config"].get("dataset")).run_table(results)


def mean_table(result: dict) -> str:
    """Mean IoU of every group of classes after one task."""
    return markdown(["group", "mIoU"], [[group, percent(result["groups"][group])] for group in GROUPS])


def iou_table(results: dict) -> str:
    """One row per task: image counts, mIoU per group; then the mean over tasks and the classes after the last task."""
    config, names = results["config"], results["class_names"]
    rows = []
    for task in results["tasks"]:
        new = [names[c] for c in task["new_classes"] if c]
        title = ", ".join(new) if len(new) <= 3 else f"{new[0]} ... {new[-1]}"
        counts = [str(task["train_images"]), str(task["test_images"])]
        means = [percent(task["groups"][group]) for group in GROUPS]
        rows.append([f"{task['index']}: {title}", *counts, *means])
    table = markdown(["task", "train", "test", *(TITLES[group] for group in GROUPS)], rows)
    last = results["tasks"][-1]
    classes = [[names[c], percent(iou)] for c, iou in zip(results["class_order"], last["iou"], strict=False)]
    run = " ".join(config[key] for key in ("dataset", "protocol", "setting"))
    return (
        f"{run}, {config['method']}, seed {config['seed']}: mIoU in %\n\n{table}\n\n"
        f"avg {percent(results['avg'])}. old = classes of task 0, background included; new = classes of the "
        f"later tasks; avg = mean of all over the tasks.{remarks(results)}\n\n"
        f"After task {last['index']}:\n\n{markdown(['class', 'IoU'], classes)}\n"
    )


def remarks(results: dict) -> str:
    """What a reader of a run's table must know: kept images, and tasks that are still to come."""
    options = results["config"].get("options", {})
    memory = options.get("memory") or options.get("base", {}).get("memory")  # of +replay, perhaps with +s2mf around it
    kept = f" Up to {memory} images of every task are kept." if memory else ""
    return kept + ("" if results["complete"] else " This run is not finished.")
