"""One line of a table."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev

from css.report.record import Record
from css.report.text import percent

MeanStd = tuple[float, float | None] | None  # mean and standard deviation; None: no number


@dataclass(frozen=True)
class Line:
    """One line of the table: a row of the recipe in one protocol, with the records of its finished seeds."""

    protocol: str
    label: str
    records: list[Record]
    wanted: int  # seeds; 0 for a line that only a paper has
    published: dict[str, tuple[float, ...] | None]  # in %, by source

    def over_seeds(self, value: Callable[[Record], float | None]) -> MeanStd:
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

    def seconds(self) -> MeanStd:
        return self.over_seeds(Record.later_seconds)


def text(moments: MeanStd) -> str:
    """In %, for a table."""
    if moments is None:
        return "-"
    return percent(moments[0]) + (f" ± {percent(moments[1])}" if moments[1] is not None else "")
