"""GD-WILD (Lee et al., ICCV 2019): distillation of the old model on new images and on unlabelled ones of a folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from css.config.settings import RunConfig
from css.losses import cross_entropy, upsample
from css.method.contract import Method
from css.model.segmenter import Segmenter
from css.training.trainer import Trainer
from plop_baseline.lwf import distillation
from tasks import InputError, Task
from tasks.reading import open_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class GdWildOptions:
    """The folder of unlabelled images, and what weighs how much."""

    images: Path | None = None
    """Folder of unlabelled images, searched with its sub-folders."""
    kd_weight: float = 1.0
    """Weight of the distillation on the task's own images, and of that on the folder's."""
    batch: int = 32
    """Images of the folder in every step."""


class GdWild(Method):
    """The core of the method: the old model answers for images of the wild, too.

    Old classes are likelier to be seen there than in the images of the new task.

    Left out of the published method: the second teacher (a network of the new classes alone) and the ensemble of both,
    the confidence loss, the sampling of the folder by what the old model sees, the balanced fine-tuning at the end.
    """

    Options = GdWildOptions
    summary = "distillation on unlabelled images of a folder (core of ICCV 2019)"

    def check(self, config: RunConfig) -> None:
        """Raises InputError if no folder is named, if it holds no image, or for an empty batch."""
        if self.options.images is None:
            raise InputError(f"gd-wild needs unlabelled images: name their folder with {self.flag}.images.")
        if self.options.batch < 1:
            raise InputError(f"{self.flag}.batch {self.options.batch} must be at least 1.")
        wild_images(self.options.images, self.flag)

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Lists the folder, whose images are seen as training images are."""
        self.files = wild_images(self.options.images, self.flag)
        self.view = trainer.kind.train_view(trainer.config.train.crop)

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy, and LwF's distillation on the task's images ("kd") and on the folder's ("wild")."""
        wild = self._draw(teacher).to(images)
        with torch.no_grad():
            old, old_wild = teacher(images).logits, teacher(wild).logits
        new = forward(torch.cat([images, wild])).logits
        new, new_wild = new[: len(images)], new[len(images) :]
        own = distillation(upsample(new, labels), upsample(old, labels)).mean()
        return {
            "ce": cross_entropy(new, labels),
            "kd": self.options.kd_weight * own,
            "wild": self.options.kd_weight * distillation(new_wild, old_wild).mean(),
        }

    def _draw(self, teacher: Segmenter) -> Tensor:
        """Normalised images at random; torch's random numbers, which a restart draws again."""
        places = torch.randint(len(self.files), (self.options.batch,)).tolist()
        seeds = torch.randint(2**31, (self.options.batch,)).tolist()
        views = []
        for place, seed in zip(places, seeds, strict=True):
            pixels = np.array(open_image(self.files[place]))
            view, _ = self.view(pixels, np.zeros(pixels.shape[:2], np.uint8), seed)
            views.append(torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))))
        return teacher.normalise(torch.stack(views))


def wild_images(folder: Path, flag: str) -> list[Path]:
    """All image files in and below a folder, in order. Raises InputError if there is none."""
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{flag}.images {folder} holds no image; name a folder with JPEG or PNG files.")
    return found
