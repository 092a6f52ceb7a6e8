"""Task-incremental classification: a label per image, a head per task, no background."""

from typing import cast

import torch
from torch import Tensor

from css.config.settings import RunConfig
from css.dream.layouts import LayoutStatistics
from css.kinds.kind import Kind
from css.losses import kl_divergence
from css.model.classifier import Classifier, width_of
from css.model.encoder_weights import IMAGENET
from css.model.segmenter import Segmenter
from tasks import InputError
from tasks.batches import Transform

# Mean and deviation of the pixels that Adam-NSCL divides by; ImageNet's for the others.
PIXELS = {"cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))}


class Classification(Kind):
    """The classes of one task compete, and the task is told."""

    first_object = 0
    has_layouts = False

    def check(self, config: RunConfig, segmentation_only: bool) -> None:
        """Raises InputError unless the network is of `css.model.classifier`, without weights, tested on whole images.

        Also for a method that needs a background.
        """
        width_of(config.model.encoder)
        if segmentation_only:
            raise InputError(
                f"--method {config.method} needs label maps with a background; for image labels choose another one, "
                "for example lwf, ewc or finetune+s2mf (see css list)."
            )
        if config.model.sees_hypercolumns:
            raise InputError("--model.classifier-features hypercolumn is for label maps; give auto or decoder here.")
        if config.evaluation == "whole":
            raise InputError("--evaluation whole is for label maps; images with one label are tested whole anyway.")
        if config.model.encoder_weights != "none":
            raise InputError("--model.encoder-weights must be none: there are none for the networks of image labels.")

    def build(self, config: RunConfig, groups: list[list[int]], pretrained: bool = True) -> Segmenter:
        """A network with a head for every group."""
        network = Classifier(config.model.encoder, groups, *PIXELS.get(config.dataset, IMAGENET))
        return cast("Segmenter", network)  # whose face it has

    def train_view(self, crop: int) -> Transform:
        """A shifted and perhaps mirrored copy of the image."""
        from tasks.views import PaddedCrop

        return PaddedCrop(crop)

    def test_view(self, config: RunConfig) -> Transform:
        """The whole image at the size of training."""
        from tasks.views import Resized

        return Resized(config.train.crop)

    def answers(self, model: Segmenter, logits: Tensor, labels: Tensor) -> Tensor:
        """The best channel of the head that the label belongs to: the task is told in testing."""
        head = cast("Classifier", model).head_of().to(logits.device)
        other = head[None, :, None, None] != head[labels.long()][:, None]
        return logits.masked_fill(other, -torch.inf).argmax(1)

    def require_room(self, count: int, channels: range) -> None:
        """Nothing: a dream shows one class, and classes may take turns from task to task."""

    def queries(self, count: int, size: int, channels: range, seed: int, layouts: LayoutStatistics | None) -> Tensor:
        """Every class about equally often, in maps of one pixel; a random choice if there are more classes."""
        generator = torch.Generator().manual_seed(seed)
        classes = channels.start + torch.randperm(len(channels), generator=generator)
        order = torch.randperm(count, generator=generator)
        return classes.to(torch.uint8).repeat(-(-count // len(classes)))[:count][order].view(-1, 1, 1)

    def old_kl(self, teacher: Tensor, logits: Tensor, num_old: int) -> Tensor:
        """Mean over the old heads; the new one has nothing to do with them."""
        return kl_divergence(teacher, logits[:, :num_old])

    def require_masks(self, what: str) -> None:
        """Raises InputError: they draw none."""
        raise InputError(f"{what} needs a network that draws masks, not one for image labels.")
