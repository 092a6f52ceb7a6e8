"""One line of a table."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from css.report.record import Record
from css.report.text import percent

Score = Callable[[Any], float | None]  # of a record of the kind of the table
MeanStd = tuple[float, float | None] | None  # mean and standard deviation; None: no number


@dataclass(frozen=True)
class Line:
    """One line of the table: a row of the recipe in one protocol, with the records of its finished seeds."""

    protocol: str
    label: str
    records: list[Any]  # all of one subclass of Record
    wanted: int  # seeds; 0 for a line that only a paper has
    published: dict[str, tuple[float | None, ...] | None]  # in %, by source

    def over_seeds(self, value: Score) -> MeanStd:
        """Mean and sample deviation; None without a run, or where a run has no such number."""
        values = [value(record) for record in self.records]
        known = [number for number in values if number is not None]
        if not known or len(known) < len(values):
            return None
        return mean(known), stdev(known) if len(known) > 1 else None

    @property
    def seeds(self) -> str:
        """How many are finished, and of how many if some are not."""
        if not self.wanted:
            return "-"
        return str(self.wanted) if len(self.records) == self.wanted else f"{len(self.records)}/{self.wanted}"

    def seconds(self) -> MeanStd:
        """Of training in the tasks after the first."""
        return self.over_seeds(Record.later_seconds)


def text(moments: MeanStd) -> str:
    """In %, for a table."""
    if moments is None:
        return "-"
    return percent(moments[0]) + (f" ± {percent(moments[1])}" if moments[1] is not None else "")
