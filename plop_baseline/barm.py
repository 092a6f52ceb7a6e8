"""BARM (Park et al., ECCV 2024): every task adapts the background's logit with an ear of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import Tensor, nn

from css.config.options import not_negative, require_values
from css.config.settings import RunConfig
from css.losses import at_places, upsample
from css.method.contract import Method
from css.model.segmenter import FEATURES, Segmenter
from css.training.trainer import Trainer
from plop_baseline.private_heads import (
    PrivateBodies,
    adaptation_losses,
    all_rows_bce,
    body_distance,
    head_distillation,
    sure_labels,
    unified_background,
)
from tasks import Task
from tasks.source import BACKGROUND


@dataclass(frozen=True)
class BarmOptions:
    """Weights of the losses, and what the released code does otherwise."""

    threshold: float = 0.7
    """Background pixels are taken as the old class with at least this probability."""
    background_weight: float = 5.0
    """Weight of what the newest ear says on background."""
    new_weight: float = 1.0
    """Weight of what it says on new classes."""
    body_weight: float = 4.0
    """Weight of the change of the old bodies on background."""
    head_weight: float = 1.0
    """Weight of the distillation of the old heads."""
    first: Literal["ce", "bce"] = "ce"
    """First task: cross-entropy, as for all methods, or binary cross-entropy, as published."""
    released: bool = False
    """As the released code does: a new ear starts without the running statistics of the body that it copies."""


class Ears(PrivateBodies):
    """Bodies, and a row r of every later task that may lower the background's logit."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = nn.ModuleList()

    def heads(self, maps: list[Tensor], classifiers: nn.ModuleList) -> list[Tensor]:
        """[background, classes] of the first task, then [r, classes]."""
        first, *later = super().heads(maps, classifiers)
        changes = [change(seen) for change, seen in zip(self.changes, maps[1:], strict=True)]
        return [first, *(torch.cat(pair, 1) for pair in zip(changes, later, strict=True))]

    def join(self, heads: list[Tensor]) -> Tensor:
        """Logits of all channels, the background's adapted."""
        return unified_background(heads, self.training)


class Barm(Method):
    """Bodies and ears stand on the maps of the ASPP; the first body is the decoder's last convolution."""

    Options = BarmOptions
    segmentation_only = True
    linear, own_head = False, True
    train_settings: ClassVar[Mapping[str, Any]] = {
        "later_batch_norm": "freeze", "later_rates": {"encoder": 0.1, "old_classifiers": 0.1},
    }  # fmt: skip
    summary = "an ear for every task that adapts the background (ECCV 2024)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError for a negative weight or a threshold that is no probability."""
        weights = [name for name in vars(self.options) if name.endswith("_weight")]
        require_values(self.options, self.flag, {
            "threshold": (0 <= self.options.threshold <= 1, "from 0 to 1"),
            **not_negative(self.options, weights),
        })  # fmt: skip

    def first_task(self) -> str:
        """Cross-entropy, or binary cross-entropy of all rows."""
        return super().first_task() if self.options.first == "ce" else "binary cross-entropy of all rows"

    def grow(self, model: Segmenter, new_classes: Sequence[int]) -> None:
        """A new ear is a copy of the first body."""
        model.grow(new_classes, init="random")
        if len(model.classifiers) == 1:
            model.head = Ears()
            return
        ears = _ears(model)
        ears.grow(model.decoder, copy_statistics=not self.options.released)
        change = nn.Conv2d(FEATURES, 1, 1)
        initialize_head(change)
        ears.changes.append(change.to(next(model.parameters()).device))

    def learn_first(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """Cross-entropy, or binary cross-entropy of every row, the background's too."""
        if self.options.first == "ce":
            super().learn_first(task, model, trainer)
        else:
            trainer.fit(model, task, _first_losses)

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """The losses look into the model."""
        self.model = model

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The paper's terms with their weights."""
        with torch.no_grad():
            old = teacher(images)
            old_maps, old_heads = _parts(teacher, old.features)
            targets = sure_labels(upsample(old.logits, labels), labels, self.options.threshold)
        new, options = forward(images), self.options
        maps, heads = _parts(self.model, new.features)
        places = at_places(labels, new.features.shape[-2:])
        adapted = adaptation_losses(heads[-1][:, 0].float(), places)
        return {
            "bce": all_rows_bce(upsample(new.logits, labels), targets),
            "background": options.background_weight * adapted["background"],
            "new": options.new_weight * adapted["new"],
            "bodies": options.body_weight * body_distance(maps[:-1], old_maps, places == BACKGROUND),
            "heads": options.head_weight * head_distillation(heads[:-1], old_heads),
        }


def _first_losses(forward: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {"bce": all_rows_bce(upsample(forward(images).logits, labels), labels)}


def _parts(model: Segmenter, shared: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Maps and rows of every task, once more: a few 1x1 and 3x3 convolutions of a map that is there."""
    maps = _ears(model).maps(model.decoder, shared)
    return maps, _ears(model).heads(maps, model.classifiers)


def _ears(model: Segmenter) -> Ears:
    return cast("Ears", model.head)
