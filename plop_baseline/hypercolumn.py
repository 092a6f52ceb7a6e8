"""New classes without training: classifiers on hypercolumns of a frozen network, aligned with drawn features."""

from torch import Tensor

from css.method.contract import Method
from css.model.segmenter import Segmenter
from css.model.state import restore_background
from css.s2mf.alignment import Alignment
from css.training.trainer import Trainer
from tasks import Task


class HypercolumnMethod(Method):
    """After the first task the network stays as it is; a later task is one pass over its images, without epochs.

    With its features the classifiers are aligned; then they are remembered as one Gaussian per class.
    """

    summary = "frozen network, classifiers on all its stages, aligned: no epochs"
    classifier_features = "hypercolumn"
    classifier_hidden = 256
    segmentation_only = frozen = True

    def __init__(self, options: object = None) -> None:
        super().__init__(options)
        self.alignment = Alignment(frozen=True)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Aligns the classifiers, from the old ones as they were before they made room for the new class."""
        restore_background(model, teacher)
        self.alignment.align(task, model, teacher, trainer)

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """The features of this task's images join those of the earlier ones."""
        self.alignment.finish(task, model, trainer)

    def tensors(self) -> dict[str, Tensor]:
        """The moments of the features of all classes."""
        return self.alignment.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `tensors` returned."""
        self.alignment.load_tensors(tensors)
