"""css report."""

import sys
from pathlib import Path

import tyro

from css.page.run import write_run_page
from css.report.choice import require_report, run_table
from css.report.results import read_results
from tasks.errors import InputError


def report(runs: tyro.conf.Positional[tuple[Path, ...]], /) -> None:
    """Prints the tables of runs, finished or not, from their results.json alone, and writes report.html into each.

    Args:
        runs: Run folders, or folders of run folders.
    """
    found = [file.parent for folder in runs for file in sorted(folder.rglob("results.json"))]
    if not found:
        raise InputError(f"No results.json in or below {', '.join(map(str, runs)) or 'nothing'}; name a run folder.")
    for run in found:
        require_report(run)
    print("\n".join(run_table(read_results(run)) for run in found))
    for run in found:
        print(f"Report: {write_run_page(run)}", file=sys.stderr)
