"""Runs of a table as results.json records them, checked: numbers are taken from nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SUMS = ("train", "since_start_or_restart")  # beside the seconds of single stages


def training_seconds(seconds: Mapping[str, float]) -> float:
    """Of all stages of a task; runs made before stages were timed have the sum over epochs only."""
    stages = [value for name, value in seconds.items() if name not in _SUMS]
    return sum(stages) if stages else seconds.get("train", 0.0)


@dataclass(config=ConfigDict(strict=True), kw_only=True)
class Scored:
    """One task: ids of its new classes, and what every kind of task has."""

    new_classes: list[int]
    train_images: int = 0
    test_images: int = 0
    index: int = 0
    seconds: dict[str, Seconds] = field(default_factory=dict)

    @property
    def training_seconds(self) -> float:
        """See the function of this name."""
        return training_seconds(self.seconds)

    @property
    def per_class(self) -> Sequence[float | None]:
        """A score of every class seen so far, in the order of learning."""
        raise NotImplementedError


@dataclass(config=ConfigDict(strict=True), kw_only=True)
class Record:
    """What tables need of results.json."""

    complete: bool
    config: dict[str, Any]
    tasks: Annotated[Sequence[Scored], Field(min_length=1)]
    class_names: list[str]
    class_order: list[int]
    protocol_groups: Annotated[list[list[int]], Field(min_length=1)]
    data_fingerprint: str

    @property
    def joint(self) -> bool:
        """Whether all classes were learnt in one task."""
        return len(self.tasks) < len(self.protocol_groups)

    def later_seconds(self) -> float:
        """Training of the tasks after the first, which several runs may share; of the only task of a joint run."""
        return sum(task.training_seconds for task in (self.tasks if self.joint else self.tasks[1:]))
