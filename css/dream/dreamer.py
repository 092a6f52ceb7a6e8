"""Dreams: images synthesised from what a network knows, without data (Split2MetaFusion, Eq. 9; DeepInversion)."""

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from css.config.options import require_values
from css.dream.layouts import as_maps, ignore_boundary
from css.dream.priors import BatchNormMatch, mean_norm, total_variation
from css.losses import pixel_cross_entropy
from css.model.output import logits_of
from css.model.state import evaluating
from tasks import InputError
from tasks.source import VOID

UNKNOWN_RANGE = (-3.0, 3.0)  # of normalised pixels, for a model that does not tell its pixel_mean and pixel_std
Found = tuple[Tensor, Tensor, list[dict[str, float]]]  # images, queries and history of one batch
NOISE = 0.5  # standard deviation of the images at the start


@dataclass(frozen=True)
class DreamOptions:
    """How dreams are made.

    Raises:
        InputError: a value out of range.
    """

    count: int = 32
    """Dreams of old, and of new classes."""
    batch: int = 32
    """At most this many dreams are made at the same time; they share the BatchNorm statistics that they match."""
    steps: int = 120
    """Steps of Adam."""
    lr: float = 0.3
    """Its learning rate at the start; cosine to 0."""
    bn_weight: float = 0.5
    """Weight of the match of BatchNorm's running means (paper)."""
    variance: bool = True
    """Match the running variances, too (DeepInversion; the paper: means alone)."""
    tv_weight: float = 0.2
    """Weight of the total variation."""
    l2_weight: float = 0.0
    """Weight of the norm of the images."""
    jitter: int = 4
    """Image and query are rolled together by up to this many pixels in every step."""
    boundary: int = 8
    """No loss looks at pixels this near to another label; half of an object that is too thin for it is kept."""
    coarse_share: float = 0.4
    """Share of the steps that are made at half the resolution first."""
    refresh: float = 0.0
    """Halfway, pixels whose prediction is at least this confident take it as their query; 0: never."""

    def __post_init__(self) -> None:
        require_values(self, "--options.dream", {
            "count": (self.count >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "steps": (self.steps >= 1, "at least 1"),
            "lr": (self.lr > 0, "above 0"),
            **{name: (getattr(self, name) >= 0, "at least 0")
               for name in ("bn_weight", "tv_weight", "l2_weight", "jitter", "boundary")},
            "coarse_share": (0 <= self.coarse_share < 1, "from 0 to below 1"),
            "refresh": (0 <= self.refresh <= 1, "from 0 to 1"),
        })  # fmt: skip


class Dreams(NamedTuple):
    """Images that were made, and what they were to show."""

    images: Tensor  # (N, 3, H, W) float32, normalised as the model's input
    queries: Tensor  # as given, with 255 where no loss looked
    history: list[dict[str, float]]  # batch, step, ce, bn, accuracy; about ten entries per batch


class Dreamer:
    """Finds images to which the model answers with the query, and whose features it has seen before.

    Minimises class-balanced cross-entropy to the query + BatchNorm statistics + smoothness over the images, with Adam.
    The model may return logits (N, C), (N, C, h, w), or an object that holds them as `.logits`; it is left as it was.
    Its `pixel_mean` and `pixel_std`, if it has them, bound the images to what a photograph can hold.
    """

    def __init__(self, model: nn.Module, options: DreamOptions = DreamOptions(), seed: int = 0) -> None:
        self.model, self.options, self.seed = model, options, seed
        mean, std = (getattr(model, name, None) for name in ("pixel_mean", "pixel_std"))
        limits: Any = UNKNOWN_RANGE if mean is None else ((0 - mean) / std, (1 - mean) / std)
        self.low, self.high = limits

    def dream(self, queries: Tensor, what: str = "dreams", size: int | None = None) -> Dreams:
        """Dreams of label maps (N, H, W), uint8 channels with 255 for "anything", or of classes (N,) below 255.

        `size` is the side of the images; only for classes it must be given. Raises InputError if the images do not
        stay finite with a tenth of the learning rate either.
        """
        size = queries.shape[-1] if size is None else size
        batches = as_maps(queries).tensor_split(math.ceil(len(queries) / self.options.batch))
        parts: list[tuple[Tensor, Tensor]] = []
        history: list[dict[str, float]] = []
        with evaluating(self.model), BatchNormMatch(self.model, self.options.variance) as match:
            if not match.layers:
                print(f"{what}: the network has no BatchNorm, so the dreams follow smoothness alone.", file=sys.stderr)
            with tqdm(
                total=len(batches) * self.options.steps, desc=what, unit="step", leave=False, disable=None
            ) as bar:
                for index, wanted in enumerate(batches):
                    images, maps, log = self._batch(wanted, size, match, index, bar)
                    parts.append((images, maps))
                    history += [{"batch": index, **entry} for entry in log]
        images, maps = (torch.cat(part) for part in zip(*parts, strict=True))
        return Dreams(images, maps.view_as(queries), history)

    def _batch(self, maps: Tensor, size: int, match: BatchNormMatch, index: int, bar: tqdm) -> Found:
        for lr in (self.options.lr, self.options.lr / 10):
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + index)
            bar.n = index * self.options.steps
            found = self._optimise(maps, size, match, lr, generator, bar)
            if found is not None:
                return found
        raise InputError(
            f"The dreams did not stay finite, with a tenth of the learning rate either: lower --options.dream.lr "
            f"({self.options.lr:g}) or --options.dream.bn-weight."
        )

    def _optimise(
        self, maps: Tensor, size: int, match: BatchNormMatch, lr: float, generator: torch.Generator, bar: tqdm
    ) -> Found | None:
        """None if something was not finite."""
        options = self.options
        history: list[dict[str, float]] = []
        full = ignore_boundary(maps, options.boundary)
        first = round(options.coarse_share * options.steps)
        halfway = max(first, options.steps // 2)
        coarse = min(size, 16 * max(2, round(size / 32)))  # the network halves it four times
        images = self._start(len(maps), coarse if first else size, maps.device, generator)
        maps = _shrunk(full, coarse) if first else full
        optimizer = torch.optim.Adam([images], lr)
        for step in range(options.steps):
            if first and step == first:
                images = F.interpolate(images.detach(), (size, size), mode="bilinear").requires_grad_()
                optimizer, maps = torch.optim.Adam([images], lr), full
            if options.refresh and step == halfway:
                maps = full = self._refreshed(images, full)
                match.take()  # the statistics of this look are none of the loss
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / options.steps))
            seen, wanted = _jittered(images, maps, options.jitter, generator)
            scores = _scores(logits_of(self.model(seen)), wanted)
            ce, bn = balanced_cross_entropy(scores, wanted), torch.as_tensor(match.take())
            loss = ce + options.bn_weight * bn + self._smoothness(images)
            (images.grad,) = torch.autograd.grad(loss, images)
            if not (loss.isfinite() and images.grad.isfinite().all()):
                return None
            optimizer.step()
            with torch.no_grad():
                images.copy_(images.clamp(self.low, self.high))
            if step % max(1, options.steps // 10) == 0 or step == options.steps - 1:
                entry = {"ce": ce.item(), "bn": bn.item(), "accuracy": accuracy(scores, wanted).item()}
                history.append({"step": step, **entry})
                bar.set_postfix({name: f"{value:.3g}" for name, value in entry.items()}, refresh=False)
            bar.update()
        return images.detach(), full, history

    def _smoothness(self, images: Tensor) -> Tensor:
        """Both priors as root mean squares, so that their weights suit any number and size of images."""
        variation = total_variation(images) / math.sqrt(images.numel())
        norm = mean_norm(images) / math.sqrt(images[0].numel())
        return self.options.tv_weight * variation + self.options.l2_weight * norm

    def _start(self, count: int, size: int, device: torch.device, generator: torch.Generator) -> Tensor:
        noise = torch.randn(count, 3, size, size, generator=generator).to(device) * NOISE
        return noise.clamp(self.low, self.high).contiguous(memory_format=torch.channels_last).requires_grad_()

    @torch.no_grad()
    def _refreshed(self, images: Tensor, maps: Tensor) -> Tensor:
        """The query where the model is unsure, its own answer where it is sure; ignored pixels stay."""
        probability, own = _scores(logits_of(self.model(images)), maps).softmax(1).max(1)
        return torch.where((probability >= self.options.refresh) & (maps != VOID), own.to(maps.dtype), maps)


def balanced_cross_entropy(scores: Tensor, queries: Tensor) -> Tensor:
    """Mean over the classes in `queries` of the mean cross-entropy of their pixels, so that none is too small to count.

    scores (N, C, H, W), queries (N, H, W) with 255 for ignored pixels; 0 if all are.
    """
    labels = queries.long().flatten()
    losses = pixel_cross_entropy(scores, queries).flatten()
    classes, counts = labels[labels != VOID].unique(return_counts=True)
    weight = losses.new_zeros(VOID + 1)
    weight[classes] = 1.0 / (counts * len(classes)).to(weight.dtype)
    return (weight[labels] * losses).sum()


def accuracy(scores: Tensor, queries: Tensor) -> Tensor:
    """Share of the pixels that are not ignored whose best class is the query's. Shapes as above."""
    counted = queries != VOID
    return (scores.argmax(1) == queries)[counted].float().mean()


def _scores(logits: Tensor, maps: Tensor) -> Tensor:
    """Logits at the size of the maps; those of a classifier are a map of one pixel."""
    logits = logits if logits.dim() == 4 else logits[..., None, None]
    return F.interpolate(logits.float(), maps.shape[-2:], mode="bilinear", align_corners=False)


def _shrunk(maps: Tensor, size: int) -> Tensor:
    size = min(size, maps.shape[-1])
    return F.interpolate(maps[:, None].float(), (size, size), mode="nearest-exact")[:, 0].to(maps.dtype)


def _jittered(images: Tensor, maps: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Image and query rolled by the same number of pixels, and flipped together or not at all."""
    shift = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    images, maps = images.roll(shift, (2, 3)), maps.roll(shift, (1, 2))
    if torch.rand((), generator=generator) < 0.5:
        images, maps = images.flip(3), maps.flip(2)
    return images, maps
