"""Split2MetaFusion (arXiv 2312.07082) around any base method: slow model, fast model, dreams, gated fusion."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from css.batchnorm import BatchNormMode
from css.dream import Dreamer, DreamOptions, Dreams, draw_dreams
from css.files import part, prefixed, save_tensors
from css.fusion import FusionOptions, MetaFusion
from css.gates import linear
from css.layouts import LayoutStatistics
from css.losses import cross_entropy, upsample
from css.method import Method
from css.model import Segmenter, load_state
from css.nullspace import GradientStatistics, Rule, for_parameters, project_total, project_updates, projector
from css.reestimate import reestimate_batch_norm
from css.trainer import Trainer
from css.wrapper import Wrapper, wrap
from tasks import InputError, Task
from tasks.source import BACKGROUND
from tasks.voc import voc_palette

Projection = Literal["none", "nsp", "tpnsp", "all"]
Fusion = Literal["none", "linear", "meta"]

FILE = "s2mf.safetensors"  # in the folder of every task after the first: slow and fast model, gates, dreams


@dataclass(frozen=True)
class StatisticsOptions:
    loss: Literal["labels", "sampled", "logits"] = "labels"
    """Loss whose gradients are collected: cross-entropy to the labels (paper), to labels drawn from the model's own
    prediction (Fisher), or half the squared logits (as in MAS)."""
    group: Literal["set", "class", "batch", "sample"] = "batch"
    """Gradients are summed over this much before they are squared: "set" is the paper's formula read literally."""
    batches: int = 100
    """At most this many training batches of a task are looked at."""


@dataclass(frozen=True)
class S2mfOptions:
    projector: Projection = "all"
    """Null space in which the slow model is trained: task-preferred (tpnsp: the paper's, Eq. 5-7), of the features
    (nsp), or none at all: "all" directions are protected, so the slow model is the old one (as a task finds it: its
    background has made room for new classes), and the fast model has all epochs (measured best, docs/results.md)."""
    fusion: Fusion = "meta"
    """How slow and fast model become one: one gate per channel (Eq. 10), one coefficient for all (Eq. 14), or not at
    all: the slow model is trained for all epochs and kept."""
    fast_share: float = 0.25
    """Share of the epochs that the fast model takes."""
    batch_norm: BatchNormMode | None = None
    """BatchNorm of the slow model, if it is to differ from --train.later-batch-norm."""
    layouts: Literal["free", "statistics"] = "statistics"
    """Queries of the dreams: any place, size and company, or drawn from histograms of the label maps that are kept from
    every task (a few kB)."""
    current_images: int = 0
    """Training images of this task that join the new dreams in the fusion."""
    alpha: float | None = None
    """Share of the slow model in linear fusion; searched on the dreams if not given."""
    prior: float = 0.0
    """Corrects how common the new classes are. Every training image of a task shows one of them, but few of all images
    do: their biases are lowered by this times log(images of all tasks / images of this task) when a task ends."""
    soft: bool = False
    """Shorten updates by (I + M / lambda)^-1, lambda = the eigenvalue at which the rule cuts, instead of cutting."""
    rule: Rule = field(default_factory=lambda: Rule("energy", 0.05))
    statistics: StatisticsOptions = field(default_factory=StatisticsOptions)
    dream: DreamOptions = field(default_factory=DreamOptions)
    fuse: FusionOptions = field(default_factory=FusionOptions)


class Split2MetaFusion(Wrapper):
    """Algorithm 1 of the paper. Both models are trained with the losses of the base method, and share its epochs."""

    Options = S2mfOptions
    summary = "old and new model fused channel by channel, on dreams (arXiv 2312.07082)"

    def __init__(self, options=None):
        super().__init__(options)
        self.statistics = GradientStatistics()  # of all tasks so far
        self.layouts = LayoutStatistics()
        self.images = 0  # of all tasks so far
        self.record: dict[str, Tensor] = {}  # of the task that is being learnt, for FILE

    def check(self, config):
        super().check(config)
        if self.options.fusion != "none" and self.options.projector != "all" and config.epochs(1) < 2:
            raise InputError(
                f"Split2MetaFusion with --options.projector {self.options.projector} divides the epochs of a task "
                "between the slow and the fast model: give at least --train.later-epochs 2, or --options.fusion none."
            )
        if self.options.projector == "all" and self.options.fusion == "none":
            raise InputError(
                "--options.projector all lets the slow model learn nothing: it needs --options.fusion meta."
            )
        if not 0 < self.options.fast_share < 1:
            raise InputError(f"--options.fast-share {self.options.fast_share} must lie between 0 and 1.")

    def learn(self, task, model, teacher, trainer):
        if teacher is None:
            return self.base.learn(task, model, teacher, trainer)
        self._split_and_fuse(task, model, teacher, trainer)
        self._correct_prior(task, model)

    def _split_and_fuse(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        epochs = trainer.config.epochs(task.index)
        fast_epochs = self._fast_epochs(epochs)
        if fast_epochs:  # before anything is trained
            for channels in _dreamt(task, trainer):
                trainer.kind.require_room(self.options.dream.count, channels)
        losses = self.base.objective(task, model, teacher, trainer)
        self.learn_slow(task, model, trainer, losses, epochs - fast_epochs)
        self.record = {}
        if self.options.fusion == "none":
            return
        slow = snapshot(model)
        trainer.fit(model, task, losses, "fast", epochs=fast_epochs)
        fast = snapshot(model)
        old, new = self._dreams(task, model, teacher, trainer)
        with trainer.autocast():
            fused = trainer.once("fusion", lambda: self._fuse(task, model, slow, fast, teacher, old, new, trainer))
        model.load_state_dict(part(fused, "state"))
        self.record = prefixed(slow=slow, fast=fast, old=_tensors(old), new=_tensors(new))
        self.record |= {name: value for name, value in fused.items() if not name.startswith("state.")}

    @property
    def _projects(self) -> bool:
        """Does the slow model need the statistics of earlier tasks?"""
        return self.options.projector in ("nsp", "tpnsp")

    def _fast_epochs(self, epochs: int) -> int:
        if self.options.fusion == "none":
            return 0
        return epochs if self.options.projector == "all" else max(1, round(self.options.fast_share * epochs))

    @torch.no_grad()
    def _correct_prior(self, task: Task, model: Segmenter) -> None:
        """Bayes' rule for a class that is rarer in all images than in those of its task (Saerens et al., 2002)."""
        here = len(task.train_indices)
        model.classifiers[task.index].bias -= self.options.prior * math.log((self.images + here) / here)

    def learn_slow(self, task: Task, model: Segmenter, trainer: Trainer, losses, epochs: int) -> None:
        """Eq. 7: the base method's losses, every update projected; the total once more at the end."""
        if not epochs:
            return
        start = snapshot(model)
        self.statistics.check(model)
        projectors = projector(self.statistics, self.options.rule, self.options.soft) if self._projects else {}
        trainer.fit(
            model, task, losses, "slow", epochs=epochs, batch_norm=self.options.batch_norm,
            on_optimizer=lambda optimizer: project_updates(optimizer, for_parameters(model, projectors)),
        )  # fmt: skip
        project_total(start, model, projectors)

    def _dreams(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> tuple[Dreams, Dreams]:
        """Of all old classes from the previous model, of the new ones from the fast model (Eq. 9)."""
        seed = 1000 * trainer.config.seed + task.index

        def dream(name: str, source: nn.Module, channels: range) -> Dreams:
            def compute() -> dict[str, Tensor]:
                layouts = self.layouts if self.options.layouts == "statistics" else None
                count, size = self.options.dream.count, trainer.config.train.crop
                queries = trainer.kind.queries(count, size, channels, seed, layouts).to(trainer.processes.device)
                with trainer.autocast():
                    dreamer = Dreamer(source, self.options.dream, seed)
                    return _tensors(dreamer.dream(queries, f"task {task.index} {name}", size))

            tensors = trainer.once(name, compute)
            return Dreams(tensors["images"], tensors["queries"], [])

        old, new = _dreamt(task, trainer)
        return dream("dreams of old classes", teacher, old), dream("dreams of new classes", model.frozen(), new)

    def _fuse(self, task, model, slow, fast, teacher, old: Dreams, new: Dreams, trainer) -> dict[str, Tensor]:
        """Eq. 10: the state of the fused model, the gates, and the losses on the way."""
        device, options = trainer.processes.device, self.options
        new_classifier = f"classifiers.{task.index}."
        fusion = MetaFusion(
            model, slow, fast, teacher, len(task.old_classes), options.fuse, trainer.config.seed, [new_classifier],
            trainer.kind.old_kl,
        )  # fmt: skip
        old_images, new_images = old.images.to(device), new.images.to(device)
        if options.current_images:
            new_images = torch.cat([new_images, _first_images(task, model, trainer, options.current_images)])
        if options.fusion == "linear":
            alpha = fusion.best_linear(old_images, new_images)[0] if options.alpha is None else options.alpha
            state, found = linear(slow, fast, alpha, (new_classifier,)), {"alpha": torch.tensor(alpha)}
        else:
            state, gates, history = fusion.fuse(old_images, new_images)
            losses = {name: torch.tensor([entry[name] for entry in history]) for name in ("old", "new")}
            found = prefixed(gate=gates, history=losses)
        if options.fuse.statistics != "interpolate":
            load_state(model, state)
            images = [old_images, new_images]
            if options.fuse.statistics == "dreams+images":
                images.append(_first_images(task, model, trainer, len(old_images)))
            reestimate_batch_norm(model, torch.cat(images).split(trainer.config.train.batch))
            state = snapshot(model)
        return prefixed(state=state) | found

    def finish(self, task, model, trainer):
        """The statistics of this task join those of the earlier ones; taken on the fused model."""
        self.base.finish(task, model, trainer)
        self.images += len(task.train_indices)
        if not self._projects and (self.options.layouts == "free" or self.options.fusion == "none"):
            return
        tensors = trainer.once("statistics", lambda: self._measure(task, model, trainer))
        self.statistics.add(GradientStatistics.from_tensors(part(tensors, "gradients")))
        self.layouts.add(LayoutStatistics.from_tensors(part(tensors, "layouts")))

    def _measure(self, task: Task, model: Segmenter, trainer: Trainer) -> dict[str, Tensor]:
        gradients, layouts, options = GradientStatistics(), LayoutStatistics(), self.options.statistics

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in itertools.islice(trainer.passes(task, model, "statistics"), options.batches):
                layouts.update(labels, len(task.seen_classes))
                yield images, labels

        if self.options.projector == "tpnsp":
            loss = {"labels": _label_loss, "sampled": _sampled_loss, "logits": _logit_loss}[options.loss]
            gradients.collect(model, batches(), loss, options.group)
        elif self.options.projector == "nsp":
            gradients.collect_features(model, batches())
        else:
            for _ in batches():
                pass
        gradients.reduce(trainer.processes)
        layouts.reduce(trainer.processes)
        return prefixed(gradients=gradients.tensors(), layouts=layouts.tensors())

    def tensors(self):
        parts = {"gradients": self.statistics.tensors(), "layouts": self.layouts.tensors()}
        return prefixed(base=self.base.tensors(), **parts) | {"images": torch.tensor(self.images)}

    def load_tensors(self, tensors):
        self.base.load_tensors(part(tensors, "base"))
        self.statistics = GradientStatistics.from_tensors(part(tensors, "gradients"))
        self.layouts = LayoutStatistics.from_tensors(part(tensors, "layouts"))
        self.images = int(tensors["images"])

    def store(self, home, task, model):
        super().store(home, task, model)
        if self.record:
            save_tensors(home / FILE, self.record)
            palette = class_palette(task.seen_classes)
            for name in ("old", "new"):
                images, queries = self.record[f"{name}.images"], self.record[f"{name}.queries"]
                draw_dreams(home / f"dreams-{name}.png", images, queries, palette, model.pixel_mean, model.pixel_std)


@functools.cache
def around(base: type[Method]) -> type[Wrapper]:
    return wrap(Split2MetaFusion, base, "s2mf", base.fused_options)


def _label_loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the labels. Where they say background but the model sees an old class, they do not know better:
    an earlier class is background in the labels of a later task (PLOP), so the model's own prediction is taken."""
    logits = upsample(model(images).logits, labels)
    own = logits.argmax(1).to(labels.dtype)
    first_new = sum(classifier.out_channels for classifier in model.classifiers[:-1])
    forgotten = (labels == BACKGROUND) & (own < first_new)
    return cross_entropy(logits, torch.where(forgotten, own, labels))


def _sampled_loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to labels drawn from the prediction (Gumbel-max), of which the squared gradient is the Fisher
    information."""
    logits = upsample(model(images).logits, labels)
    noise = -torch.empty_like(logits).exponential_().log()
    return cross_entropy(logits, (logits.detach() + noise).argmax(1))


def _logit_loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Half the squared logits, mean over pixels (MAS)."""
    return 0.5 * model(images).logits.square().sum(1).mean()


def _dreamt(task: Task, trainer: Trainer) -> tuple[range, range]:
    """Channels of the old and of the new classes, without the background."""
    return range(trainer.kind.first_object, len(task.old_classes)), range(len(task.old_classes), len(task.seen_classes))


def _first_images(task: Task, model: Segmenter, trainer: Trainer, count: int) -> Tensor:
    found: list[Tensor] = []
    for images, _ in trainer.passes(task, model, "current images"):
        found.append(images)
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


def class_palette(classes: Sequence[int]) -> np.ndarray:
    """Colours of channels, uint8 (256, 3), from the raw ids of their classes."""
    palette = voc_palette()
    palette[: len(classes)] = palette[list(classes)]
    return palette


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of a network."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _tensors(dreams: Dreams) -> dict[str, Tensor]:
    return {"images": dreams.images, "queries": dreams.queries}
