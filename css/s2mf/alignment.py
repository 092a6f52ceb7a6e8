"""Classifiers that know old classes again, without their images: trained on features that are drawn.

Every training image of a task shows a new class, so a new classifier sees no counterexample of most old classes, and
answers where it should not. Here all classifiers are trained once more at the end of a task, on features alone: those
of its images, and features drawn from one Gaussian per old class (classifier alignment; SLCA, arXiv 2303.05118, for
image labels). These are drawn in the space of the previous model, whose classifiers say what they are, and carried to
that of the new one by a linear map fitted on the images of the task.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from css.losses import at_places
from css.model.output import Output
from css.model.segmenter import Head, Segmenter
from css.model.state import Classifiers, classifiers_of, evaluating, set_classifiers
from css.s2mf.moments import FeatureMoments, Gaussians, extend, fit_drift
from css.training.trainer import Trainer
from css.training.views import FeatureViews
from tasks import Task
from tasks.source import BACKGROUND, VOID

STEPS = 600
BATCH = 4096  # features per step
POOL = 50_000  # features drawn for old classes
LR = 0.01  # of Adam, falling to 0 linearly
HIDDEN_BATCH, HIDDEN_LR = 2048, 0.001  # with a hidden layer: a third of the time; it would fit noise at the other rate
MOST = 200_000  # features of a task's images that are kept in memory, about

Maps = tuple[Tensor, Tensor, Tensor]  # features (B, D, h, w) in the previous and in the new model, labels (B, H, W)


class Seen(NamedTuple):
    """Features of the same places of a task's images in the previous model and in the new one, and their channels."""

    before: Tensor  # (N, D)
    after: Tensor  # (N, D)
    labels: Tensor  # (N,), integers; old classes may be called background
    frequency: int  # places of which these are a sample, in all processes


class Alignment:
    """Aligns the classifiers at the end of every later task, and keeps the moments of the features of all classes.

    Args:
        frozen: The network never changes: features do not drift, and those of a task are computed in a single pass.
    """

    def __init__(self, frozen: bool = False) -> None:
        self.frozen = frozen
        self.moments = FeatureMoments()
        self.views: FeatureViews | None = None  # of the task that is being learnt, where the network is frozen

    def align(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Trains the classifiers of `model` in place; from now on the moments are those of its features."""

        def compute() -> dict[str, Tensor]:
            seen = self._look(task, model, teacher, trainer)
            drift = {} if self.frozen else {"drift": fit_drift(seen.before, seen.after)}
            old, new = classifiers_of(teacher), classifiers_of(model)
            found = aligned(new, old, self.moments.gaussians(model.lowest), seen, drift.get("drift"))
            return {**found.tensors(), **drift}

        found = trainer.once("alignment", compute)
        drift = found.pop("drift", None)
        set_classifiers(model, Classifiers(**found))
        if drift is not None:
            self.moments = self.moments.moved(drift)

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """The features of this task's images join those of the earlier ones."""

        def measure() -> dict[str, Tensor]:
            moments, channels = FeatureMoments(), len(task.seen_classes)
            for output, labels in self._outputs(task, model, trainer):
                moments.update(_rows(output.features), _answers(output.logits, labels, task), channels)
            return {"sums": trainer.processes.sum(moments.sums)}

        self.moments.add(FeatureMoments(trainer.once("features", measure)["sums"]))
        self.views = None

    def _look(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> Seen:
        if not self.frozen:
            return look(task, model, teacher, trainer)
        views = self._look_once(task, model, trainer)
        return _sampled(task, ((features, features, labels) for features, labels in views.seen(0)), trainer)

    def _outputs(self, task: Task, model: Segmenter, trainer: Trainer) -> Iterator[tuple[Output, Tensor]]:
        """Of the features that `align` has seen, where they are still the network's; else of another pass."""
        again = self.frozen and task.index
        batches = self._look_once(task, model, trainer).seen(0) if again else trainer.passes(task, model, "features")
        forward = Head(model) if again else model
        for images, labels in batches:
            with torch.no_grad(), evaluating(model), trainer.autocast():
                output = forward(forward.normalise(images) if again else images)
            yield output, labels.to(output.logits.device)

    def _look_once(self, task: Task, model: Segmenter, trainer: Trainer) -> FeatureViews:
        self.views = self.views or trainer.look_once(task, model, views=1)
        return self.views

    def tensors(self) -> dict[str, Tensor]:
        """The moments of features, float32 (channels, (D + 1) (D + 2) / 2)."""
        return {"sums": self.moments.packed()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back the moments."""
        self.moments = FeatureMoments.unpacked(tensors["sums"])


def aligned(new: Classifiers, teacher: Classifiers, old: Gaussians, seen: Seen, drift: Tensor | None) -> Classifiers:
    """The classifiers `new`, trained on features of old classes and of this task, as frequent as in all images.

    Cross-entropy to the answers of `teacher`, the classifiers of the previous model; to the label for new classes.
    A task that showed no labelled place leaves drawn features alone; if there are none either, nothing is learnt.
    `drift` as of `fit_drift`, or None where the network has not changed.
    """
    known, channels = len(teacher.bias), len(new.bias)
    batch = batch_for(new)
    number = _fresh(seen.frequency if len(seen.labels) else 0, old.counts.sum().item(), batch)
    if number is None:
        return new

    def answers(features: Tensor) -> Tensor:
        return F.pad(teacher.logits(features).softmax(1), (0, channels - known))

    drawn = old.sample(POOL if number < batch else 0)
    carried = drawn if drift is None else (extend(drawn) @ drift[:-1].float().T).clamp(min=old.lowest)
    targets, fresh = answers(seen.before), seen.labels >= known
    targets[fresh] = F.one_hot(seen.labels[fresh], channels).to(targets)
    return train(new, [Rows(seen.after, targets, number), Rows(carried, answers(drawn), batch - number)])


class Rows(NamedTuple):
    """Features that a classifier is trained on, and how many of them a step sees."""

    features: Tensor  # (N, D)
    targets: Tensor  # (N, channels), probabilities
    number: int  # 0 where there are none


def train(start: Classifiers, parts: Sequence[Rows]) -> Classifiers:
    """The classifiers `start` after STEPS steps of Adam on the cross-entropy, by random rows of every part."""
    found = Classifiers(**{name: value.clone().requires_grad_() for name, value in start.tensors().items()})
    rate = LR if start.hidden_weight is None else HIDDEN_LR
    optimizer = torch.optim.Adam(found.tensors().values(), rate)
    numbers = [part.number for part in parts]
    features, targets = (like.new_empty(sum(numbers), like.shape[1]) for like in (parts[0].features, parts[0].targets))
    places = list(zip(parts, features.split(numbers), targets.split(numbers), strict=True))  # filled anew in every step
    for step in tqdm(range(STEPS), desc="classifiers", unit="step", leave=False, disable=None):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / STEPS)
        for part, some_features, some_targets in places:
            rows = torch.randint(max(1, len(part.features)), (part.number,))
            torch.index_select(part.features, 0, rows, out=some_features)
            torch.index_select(part.targets, 0, rows, out=some_targets)
        loss = F.cross_entropy(found.logits(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Classifiers(**{name: value.detach() for name, value in found.tensors().items()})


def batch_for(classifiers: Classifiers) -> int:
    """Features per step of their training."""
    return BATCH if classifiers.hidden_weight is None else HIDDEN_BATCH


def _fresh(seen: int, drawn: float, batch: int) -> int | None:
    """How many features of a batch are of the task's places, by the numbers of both; None if there are none at all."""
    if not seen + drawn:
        return None
    return min(batch, max(1, round(seen / (seen + drawn) * batch))) if seen else 0


@torch.no_grad()
def look(task: Task, model: Segmenter, teacher: Segmenter | None, trainer: Trainer) -> Seen:
    """Features of the task's images; a random part of them, if there are many. Without a teacher the model's alone."""

    def maps() -> Iterator[Maps]:
        for images, labels in trainer.passes(task, model, "alignment"):
            with evaluating(model), trainer.autocast():
                after = model(images).features
                before = after if teacher is None else teacher(images).features
            yield before, after, labels

    return _sampled(task, maps(), trainer)


def _sampled(task: Task, maps: Iterable[Maps], trainer: Trainer) -> Seen:
    """Places of a pass over the task's images; a random part of them, if there are many."""
    parts: list[list[Tensor]] = []
    counts = 0
    quota = max(1, MOST * trainer.config.train.batch // len(task.train_indices))
    for before, after, labels in maps:
        rows = [_rows(before), _rows(after), at_places(labels, after.shape[-2:]).flatten().long()]
        counted = (rows[-1] != VOID).nonzero()[:, 0]
        counts += len(counted)
        chosen = counted[torch.randperm(len(counted))[:quota].to(counted.device)]
        parts.append([column[chosen].cpu() for column in rows])
    before, after, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return Seen(before, after, labels, int(trainer.processes.sum(torch.tensor(counts)).item()))


def _answers(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """The labels at the places of the logits, (N,); what is background there: the model's answer among old classes."""
    sampled = at_places(labels, logits.shape[-2:]).long()
    if task.index:
        own = logits[:, : len(task.old_classes)].argmax(1)
        sampled = torch.where(sampled == BACKGROUND, own, sampled)
    return sampled.flatten()


def _rows(features: Tensor) -> Tensor:
    """Feature maps (B, D, h, w) as float32 (B h w, D)."""
    return features.float().permute(0, 2, 3, 1).flatten(0, 2)
