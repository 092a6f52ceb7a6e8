"""What the learner asks of a data set's kind of labels: does a pixel or an image carry them?"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from css.config.settings import RunConfig
from css.dream.layouts import LayoutStatistics
from css.model.segmenter import Segmenter
from tasks.batches import Transform


class Kind(ABC):
    """Networks, views, answers and queries of one kind of labels. Its methods take what they need, and keep nothing.

    What a reporter asks is `css.report.scores.Scores`, what a table asks `css.table.columns.Columns`.
    """

    first_object: ClassVar[int]  # the first channel that is a class of its own, after the background if there is one
    # Labels have places and areas, of which queries of dreams can be drawn; all classes share one set of classifiers.
    has_layouts: ClassVar[bool]

    @abstractmethod
    def check(self, config: RunConfig, segmentation_only: bool) -> None:
        """Raises InputError for a setting that makes no sense here, or a method that is for segmentation only."""

    @abstractmethod
    def build(self, config: RunConfig, groups: list[list[int]], pretrained: bool = True) -> Segmenter:
        """The network before its first task."""

    @abstractmethod
    def train_view(self, crop: int) -> Transform:
        """What training sees of an image; `crop` is the side in pixels."""

    @abstractmethod
    def test_view(self, config: RunConfig) -> Transform:
        """What testing sees of an image."""

    @abstractmethod
    def answers(self, model: Segmenter, logits: Tensor, labels: Tensor) -> Tensor:
        """The channel that the network chooses, integers of the shape of the labels."""

    @abstractmethod
    def require_room(self, count: int, channels: range) -> None:
        """Raises InputError if so many dreams cannot show all these channels, where they must."""

    @abstractmethod
    def queries(self, count: int, size: int, channels: range, seed: int, layouts: LayoutStatistics | None) -> Tensor:
        """What dreams shall show: uint8 label maps (count, H, W) of these channels."""

    @abstractmethod
    def old_kl(self, teacher: Tensor, logits: Tensor, num_old: int) -> Tensor:
        """KL(teacher || model) over the classes that the teacher knows."""

    @abstractmethod
    def require_masks(self, what: str) -> None:
        """Raises InputError if the networks draw no masks."""
