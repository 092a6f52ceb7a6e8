"""A network begins to see hypercolumns: when its first task ends, directions and the first classifier are fitted."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.config.settings import RunConfig
from css.model.hypercolumn import COMPONENTS, Hypercolumn, columns, fit_directions
from css.model.segmenter import Segmenter
from css.model.state import Classifiers, classifiers_of, evaluating, set_classifiers
from css.s2mf.alignment import Rows, batch_for, look, train
from css.s2mf.moments import extend
from css.training.trainer import Trainer
from tasks import InputError, Task

IMAGES = 1000  # about so many give the directions,
PLACES = 40_000  # with about so many places together


def see_hypercolumns(task: Task, model: Segmenter, trainer: Trainer) -> None:
    """Directions from one pass over the images of the first task, its classifier from a second one.

    The classifier starts as the network's own, which is a function of what the directions keep, and goes half the way.
    """
    if trainer.config.model.classifier_features == "hypercolumn+pretrained":
        model.keep_pretrained(trainer.config.model.encoder_weights)
    found = trainer.once("directions", lambda: dict(fit_hypercolumn(task, model, trainer).state_dict()))
    hypercolumn = Hypercolumn(**found)
    weight, bias = hypercolumn.own_classifier()
    units = trainer.config.model.classifier_hidden or 0
    model.see(hypercolumn, units)

    def compute() -> dict[str, Tensor]:
        seen = look(task, model, None, trainer)
        targets = F.one_hot(seen.labels, len(bias)).float()
        start = beside_hidden(weight, bias, units)
        return halfway(start, train(start, [Rows(seen.after, targets, batch_for(start))])).tensors()

    set_classifiers(model, Classifiers(**trainer.once("first classifier", compute)))


def halfway(start: Classifiers, end: Classifiers) -> Classifiers:
    """Classifiers whose logits are the mean of those before and after training, where `start` ignores its hidden layer.

    The one was learnt with the network, the other sees all stages: they err at other places (weight-space ensembles;
    Wortsman et al., arXiv 2109.01903, with their coefficient 0.5).
    """
    return end._replace(weight=(start.weight + end.weight) / 2, bias=(start.bias + end.bias) / 2)


def beside_hidden(weight: Tensor, bias: Tensor, units: int) -> Classifiers:
    """A linear classifier (N, k), (N,), and a random hidden layer of so many units that adds nothing to it yet."""
    if not units:
        return Classifiers(weight, bias)
    layer = nn.Linear(weight.shape[1], units)
    return Classifiers(F.pad(weight, (0, units)), bias, layer.weight.detach(), layer.bias.detach())


def require_places(config: RunConfig, task: Task, model: Segmenter) -> None:
    """Raises InputError if the first task shows fewer places than numbers would be kept of one."""
    if not config.model.sees_hypercolumns:
        return
    width = min(COMPONENTS, sum(model.column_widths))
    places = len(task.train_indices) * (config.train.crop // 16) ** 2
    if places <= width:
        raise InputError(
            f"The {len(task.train_indices)} images of the first task have {places} places at --train.crop "
            f"{config.train.crop}, too few for {width} numbers per place: give it more images, a larger crop, or "
            "--model.classifier-features decoder."
        )


@torch.no_grad()
def fit_hypercolumn(task: Task, model: Segmenter, trainer: Trainer) -> Hypercolumn:
    """From the moments of all stages at a part of the places of a task's images, and the network's own classifier."""
    batch, width = trainer.config.train.batch, sum(model.column_widths) + 1
    sums = torch.zeros(width, width, dtype=torch.float64)
    quota = max(1, PLACES * batch // min(IMAGES, len(task.train_indices)))
    for images, _ in trainer.passes(task, model, "directions", most=-(-IMAGES // batch)):
        with evaluating(model), trainer.autocast():
            found = columns(model.column(images)).permute(0, 2, 3, 1).flatten(0, 2)
        chosen = extend(found[torch.randperm(len(found))[:quota].to(found.device)])
        sums += (chosen.T @ chosen).cpu()  # float32 within a batch: double would take longer than the network
    sums = trainer.processes.sum(sums)
    own = classifiers_of(model)
    return fit_directions(sums, model.column_widths, (own.weight, own.bias), COMPONENTS)
