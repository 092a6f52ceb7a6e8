"""What a table asks of a kind of labels."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from css.report.record import Record
from css.table.line import Line


class Columns(ABC):
    """What tables of one kind of labels show."""

    scores: ClassVar[dict[str, tuple[str, Callable[[Record], float | None]]]]  # name: title, value after the last task
    main: ClassVar[str]  # the score that methods are compared by
    published: ClassVar[tuple[str, ...]]  # what a paper's numbers are
    legend: ClassVar[str]
    as_published: ClassVar[str]  # said if no setting differs

    @abstractmethod
    def preset(self, dataset: str) -> str:
        """The data set whose preset holds the published settings."""

    @abstractmethod
    def tasks(self, lines: list[Line]) -> str:
        """Scores after every task, of lines with finished runs of one protocol."""

    @abstractmethod
    def classes(self, lines: list[Line]) -> str:
        """Scores of classes after the last task."""

    @abstractmethod
    def over_tasks(self, record: Record) -> list[float | None]:
        """The main score after every task."""

    @abstractmethod
    def draw(self, folder: Path, protocol: str, lines: list[Line]) -> None:
        """Curves over tasks, and what was forgotten, as PNG."""
