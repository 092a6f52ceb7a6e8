"""Fine-tuning: learn the new classes, do nothing against forgetting. The lower bound."""

from torch import Tensor, nn

from css.method.contract import Method, plain_losses
from css.model.segmenter import Segmenter
from tasks import Task


class Finetune(Method):
    """The first task's loss in every task; only the balanced initialisation knows of the old classes."""

    summary = "cross-entropy on the new labels alone; forgets (lower bound)"

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of the new images alone, as "ce"."""
        return plain_losses(forward, images, labels)
