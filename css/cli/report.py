"""css report."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import tyro

from css.page.run import write_run_page
from css.report.choice import require_report, run_table
from css.report.results import read_results
from tasks.errors import InputError


def report(runs: tyro.conf.Positional[tuple[Path, ...]], /) -> int:
    """Prints the tables of runs, finished or not, from their results.json alone, and writes report.html into each.

    A results.json that is damaged or of another program is named, and the others are shown; the exit code is 1 then,
    and 2 if none can be shown.

    Args:
        runs: Run folders, or folders of run folders.
    """
    found = list(dict.fromkeys(folder for top in runs for folder in _run_folders(top)))
    if not found:
        raise InputError(f"No results.json in or below {', '.join(map(str, runs)) or 'nothing'}; name a run folder.")
    complaints = [complaint for complaint in map(_show, found) if complaint]
    if len(complaints) == len(found):
        raise InputError(" ".join([complaints[0], *(f"Nor can {run} be shown." for run in found[1:])]))
    for complaint in complaints:
        print(f"css: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _show(run: Path) -> str:
    """Prints the table of a run and writes its page; returns why it cannot be shown, or nothing."""
    try:
        require_report(run)
        print(run_table(read_results(run)))
        write_run_page(run)
    except InputError as error:
        return str(error)
    return ""


def _run_folders(top: Path) -> Iterator[Path]:
    """The folders with results.json in and below one, in order; linked ones, too, but each once."""
    seen = set()
    for folder, inside, files in os.walk(top, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside.sort()
        if "results.json" in {*files, *inside}:
            yield Path(folder)
