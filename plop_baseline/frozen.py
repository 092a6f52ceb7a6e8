"""Frozen features: only the classifier of the new classes is trained. The honest floor of every table."""

import torch

from css.method.contract import Method, plain_losses


class Frozen(Method):
    """After the first task, encoder, decoder and old classifiers stay as they are, BatchNorm statistics included.

    Old logits are then exactly those of the teacher: the balanced initialisation, which takes probability from the
    background, is undone for it, because nothing here could ever give it back.
    """

    summary = "everything but the new classifier frozen (floor)"

    def learn(self, task, model, teacher, trainer) -> None:
        with torch.no_grad():
            model.classifiers[0].bias.copy_(teacher.classifiers[0].bias)
        model.requires_grad_(False)
        model.classifiers[-1].requires_grad_(True)
        try:
            trainer.fit(model, task, self.objective(task, model, teacher, trainer), batch_norm="freeze")
        finally:
            model.requires_grad_(True)

    def losses(self, task, forward, teacher, images, labels):
        return plain_losses(forward, images, labels)
