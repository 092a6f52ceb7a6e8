"""What a reporter asks of a kind of labels: scores of tasks and their tables."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from css.report.record import Record

if TYPE_CHECKING:  # reports do without PyTorch
    from css.metrics import ConfusionMatrix
    from tasks import Task


class Scores(ABC):
    """Its methods take what they need, and keep nothing. `results` is results.json, `result` one of its tasks."""

    record: ClassVar[type[Record]]  # what tables need of results.json
    published: ClassVar[tuple[str, ...]]  # what a paper's numbers are

    @abstractmethod
    def task_result(self, task: "Task", confusion: "ConfusionMatrix", groups: list[list[int]]) -> dict[str, Any]:
        """Scores of one task; `groups` are those of the protocol (joint training has a single task)."""

    @abstractmethod
    def summary(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """Scores of all tasks so far together."""

    @abstractmethod
    def brief(self, result: dict[str, Any]) -> str:
        """The scores of a task in a few words."""

    @abstractmethod
    def run_table(self, results: dict[str, Any]) -> str:
        """The table of a run."""

    @abstractmethod
    def score_table(self, result: dict[str, Any]) -> str:
        """The scores of one task as a table."""
