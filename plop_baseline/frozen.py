"""Frozen features: only the classifier of the new classes is trained. The honest floor of every table."""

from torch import Tensor, nn

from css.method.contract import Method, plain_losses
from css.model.segmenter import Head, Segmenter
from css.model.state import only, restore_background
from css.training.trainer import Trainer
from tasks import Task

VIEWS = 2  # of every image: its epochs see features of one of them


class Frozen(Method):
    """After the first task, encoder, decoder and old classifiers stay as they are, BatchNorm statistics included.

    Old logits are then exactly those of the teacher: the balanced initialisation, which takes probability from the
    background, is undone for it, because nothing here could ever give it back. Features that stay are computed once
    for a few views of every image, and the epochs run on them.
    """

    summary = "everything but the new classifier frozen (floor)"
    frozen = True

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Fits the newest classifier alone; everything can be trained again afterwards."""
        restore_background(model, teacher)
        views = trainer.look_once(task, model, min(VIEWS, trainer.config.epochs(task.index)))
        head = Head(model)
        with only(head, model.classifiers[-1]):
            trainer.fit(head, task, self.objective(task, model, teacher, trainer), views=views)

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of the new images alone, as "ce"; in place of images their features."""
        return plain_losses(forward, images, labels)
