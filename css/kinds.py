"""What depends on whether pixels or images carry the labels: the one place of the toolkit that asks."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from css.metrics import ConfusionMatrix
from css.model import Segmenter
from css.processes import Processes
from tasks import Stream, Task
from tasks.images import Transform

if TYPE_CHECKING:
    from css.config import RunConfig
    from css.layouts import LayoutStatistics
    from css.method import Method
    from css.table import Columns

IMAGE_LABELS = ("cifar100", "tiny-imagenet", "shapes-cls")


class Kind(Protocol):
    """Networks, views, scores and pictures of one kind of labels. Its methods take what they need, and keep nothing."""

    first_object: ClassVar[int]  # the first channel that is a class of its own, after the background if there is one
    # Labels have places and areas, of which queries of dreams can be drawn; all classes share one set of classifiers.
    has_layouts: ClassVar[bool]
    record: ClassVar[type]  # of css.record: what tables need of results.json
    columns: "ClassVar[Columns]"  # of the table of a recipe

    def check(self, config: "RunConfig", method: "Method") -> None:
        """Raises InputError for a method or a setting that makes no sense here."""

    def split(self, protocol: str, num_classes: int, order: Sequence[int]) -> list[list[int]]:
        """Raw class ids of every task."""

    def build(self, config: "RunConfig", groups: list[list[int]], pretrained: bool = True) -> Segmenter:
        """The network before its first task."""

    def train_view(self, crop: int) -> Transform: ...

    def test_view(self, config: "RunConfig") -> Transform: ...

    def answers(self, model: Segmenter, logits: Tensor, labels: Tensor) -> Tensor:
        """The channel that the network chooses, integers of the shape of the labels."""

    def require_room(self, count: int, channels: range) -> None:
        """Raises InputError if so many dreams cannot show all these channels, where they must."""

    def queries(self, count: int, size: int, channels: range, seed: int, layouts: "LayoutStatistics | None") -> Tensor:
        """What dreams shall show: uint8 label maps (count, H, W) of these channels."""

    def old_kl(self, teacher: Tensor, logits: Tensor, num_old: int) -> Tensor:
        """KL(teacher || model) over the classes that the teacher knows."""

    def task_result(self, task: Task, confusion: ConfusionMatrix, groups: list[list[int]]) -> dict[str, Any]:
        """Scores of one task; `groups` are those of the protocol (joint training has a single task)."""

    def summary(self, tasks: list[dict]) -> dict[str, Any]:
        """Scores of all tasks so far together."""

    def brief(self, result: dict) -> str:
        """The scores of a task in a few words."""

    def run_table(self, results: dict) -> str:
        """The table of a run, from results.json."""

    def score_table(self, result: dict) -> str:
        """The scores of one task as a table."""

    def draw(self, home: Path, earlier: list[Path], stream: Stream, task: Task, model: Segmenter,
             config: "RunConfig", processes: Processes) -> None:  # fmt: skip
        """Pictures of a finished task into its folder `home`; `earlier` are the folders of the tasks before it."""

    def require_masks(self, what: str) -> None:
        """Raises InputError if the networks draw no masks."""


def kind_of(dataset: object) -> Kind:
    """That of a data set, by its name; imported when it is needed."""
    name = "classification:Classification" if dataset in IMAGE_LABELS else "segmentation:Segmentation"
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"css.{module}"), attribute)()
