"""Segmentation: a label per pixel, and a background that all else belongs to."""

from torch import Tensor

from css.config.settings import RunConfig
from css.dream.layouts import LayoutStatistics, require_room, sample_layouts
from css.kinds.kind import Kind
from css.losses import background_kl, upsample
from css.model.foreign import Foreign, is_foreign
from css.model.segmenter import Segmenter
from tasks.batches import Transform
from tasks.source import BACKGROUND


class Segmentation(Kind):
    """All classes compete at every pixel."""

    first_object = BACKGROUND + 1
    has_layouts = True

    def check(self, config: RunConfig, segmentation_only: bool) -> None:
        """Everything works."""

    def build(self, config: RunConfig, groups: list[list[int]], pretrained: bool = True) -> Segmenter:
        """DeepLabV3, or a network of another library; `groups` make no difference to it before it grows."""
        if is_foreign(config.model.encoder):
            return Foreign(config.model.encoder)
        return Segmenter(config.model.encoder, config.model.encoder_weights if pretrained else "none")

    def train_view(self, crop: int) -> Transform:
        """A random part of the image, in a square of this side."""
        from tasks.views import RandomCrop  # albumentations takes half a second, and predictions do without

        return RandomCrop(crop)

    def test_view(self, config: RunConfig) -> Transform:
        """Centre crops (Resize + CenterCrop, as published) or whole images padded to a multiple of 16."""
        from tasks.views import CentreCrop, WholeImage

        return CentreCrop(config.train.crop) if config.evaluation == "crop" else WholeImage()

    def answers(self, model: Segmenter, logits: Tensor, labels: Tensor) -> Tensor:
        """The channel of the largest logit at every pixel: logits (B, C, h, w), labels and answers (B, H, W)."""
        return upsample(logits, labels).argmax(1)

    def require_room(self, count: int, channels: range) -> None:
        """Every class must stand in some dream."""
        require_room(count, channels)

    def queries(self, count: int, size: int, channels: range, seed: int, layouts: LayoutStatistics | None) -> Tensor:
        """As `css.dream.layouts.sample_layouts`."""
        return sample_layouts(count, size, channels, seed, layouts)

    def old_kl(self, teacher: Tensor, logits: Tensor, num_old: int) -> Tensor:
        """The new classes count as background, which is what the teacher calls them."""
        return background_kl(teacher, logits, num_old)

    def require_masks(self, what: str) -> None:
        """They do."""
