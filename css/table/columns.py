"""What a table asks of a kind of labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from css.table.line import Line, Score


class Columns(ABC):
    """What tables of one kind of labels show."""

    main: ClassVar[str]  # the score that methods are compared by
    scores: ClassVar[Mapping[str, tuple[str, Score]]]  # name: title, value after the last task
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
    def over_tasks(self, record: Any) -> list[float | None]:
        """The main score after every task, of a record of the kind of the table."""

    @abstractmethod
    def draw(self, folder: Path, protocol: str, lines: list[Line]) -> None:
        """Curves over tasks, and what was forgotten, as PNG."""
