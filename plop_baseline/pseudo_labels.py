"""Pseudo labels of PLOP (Douillard et al., CVPR 2021, section 3.3): the old model labels the background."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from css.losses import in_rows, pixel_cross_entropy
from tasks.errors import InputError
from tasks.source import BACKGROUND, VOID

OFFICIAL_BINS = 100  # on [0, 1], although the entropy never leaves a small part of it
MEDIAN_RESOLUTION = 5e-7  # bin width of the median mode: its error is half of this


@torch.no_grad()
def entropy(logits: Tensor, num_seen: int) -> Tensor:
    """Entropy of the soft-max over dimension 1, normalised as in PLOP's official code.

    logits: (B, C, ...) -> (B, ...). Divided by log C and by log num_seen, and a mean over the C classes where the paper
    has a sum: values lie in [0, 1 / (C log num_seen)], not in [0, 1].
    """
    num_old, pixels = logits.shape[1], logits.shape[:1] + logits.shape[2:]
    p = in_rows(logits.to(torch.promote_types(logits.dtype, torch.float32))).softmax(dim=1)
    mean = p.add(1e-8).log_().mul_(p).mean(dim=1).view(pixels)
    return -mean / (math.log(num_old) * math.log(num_seen))


class EntropyHistogram:
    """Histogram of the old model's entropy on background pixels, per predicted class; gives the thresholds.

    mode "official" repeats the arithmetic of the published code (100 bins on [0, 1]; not a median), mode "median" is
    the definition of the paper, exact to 2.5e-7 plus the rounding of a float32 entropy.
    `counts` is int64 (num_seen, bins): the counts of several processes may be summed (all_reduce) before `thresholds`.
    Raises InputError for another mode.
    """

    def __init__(self, num_old: int, num_seen: int, mode: str = "official", device: torch.device | str = "cpu") -> None:
        if mode not in ("official", "median"):
            raise InputError(f"Unknown threshold mode {mode!r}: choose official or median.")
        largest = 1 / (num_old * math.log(num_seen))
        self.num_seen = num_seen
        self.mode = mode
        self.bins = OFFICIAL_BINS if mode == "official" else math.ceil(largest / MEDIAN_RESOLUTION)
        self.bins_per_unit = OFFICIAL_BINS if mode == "official" else self.bins / largest
        self.counts = torch.zeros(num_seen, self.bins, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count the pixels with label 0. logits: (B, num_old, H, W) of the old model; labels: (B, H, W)."""
        pixels = logits.movedim(1, -1)[labels == BACKGROUND]
        columns = (entropy(pixels, self.num_seen) * self.bins_per_unit).long().clamp(0, self.bins - 1)
        cells = pixels.argmax(dim=1) * self.bins + columns
        counts = torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)
        self.counts += counts.to(self.counts.device)

    def thresholds(self, floor: float = 1e-3) -> Tensor:
        """float32 (num_seen,), at least `floor`; `floor` for a class that was never predicted."""
        of_class = _official_threshold if self.mode == "official" else self._median
        values = torch.tensor([of_class(row) if row.any() else 0.0 for row in self.counts.cpu()], dtype=torch.float32)
        # As in the published code, the floor replaces -inf, but a NaN stays (no pixel is accepted).
        return values.clamp(min=floor).to(self.counts.device)

    def _median(self, counts: Tensor) -> float:
        """Median of one class: the middle of the bin of the middle pixel, or the mean over the two middle pixels."""
        cumulative = counts.cumsum(0)
        total = int(cumulative[-1])
        middle_pixels = torch.tensor([(total - 1) // 2, total // 2])
        bins = torch.searchsorted(cumulative, middle_pixels, right=True)
        return (bins.double().mean().item() + 0.5) / self.bins_per_unit


def _official_threshold(counts: Tensor) -> float:
    """Threshold of one class as PLOP's official code computes it from int64 (100,) counts, with all its consequences.

    The running sum adds the number of a bin instead of its count, and the bin looked up is one too low at 29, 57 and 58
    (0.29 * 100 < 29). A class whose loop never stops ends in a division by zero: +inf, -inf or NaN.
    The sums stay float32 tensors, because the published comparisons are made in float32.
    """
    half = counts.sum() / 2
    running = 0.0
    for i in range(OFFICIAL_BINS):
        border = i / OFFICIAL_BINS
        count = counts[int(border * OFFICIAL_BINS)]
        if running <= half <= running + count:
            break
        running += border * OFFICIAL_BINS
    return (border + (half - running) / count / OFFICIAL_BINS).item()


def entropy_thresholds(
    batches: Iterable[tuple[Tensor, Tensor]],
    num_old: int,
    num_seen: int,
    floor: float = 1e-3,
    mode: str = "official",
) -> Tensor:
    """Entropy below which a prediction of the old model becomes a pseudo label, per class: float32 (num_seen,).

    batches yields the old model's logits (B, num_old, H, W) at label size and the labels (B, H, W); only pixels with
    label 0 count. Modes and their precision: see `EntropyHistogram`. Raises InputError for an unknown mode.
    """
    histogram = EntropyHistogram(num_old, num_seen, mode)
    for logits, labels in batches:
        histogram.update(logits, labels)
    return histogram.thresholds(floor)


@torch.no_grad()
def confident_prediction(old_logits: Tensor, thresholds: Tensor, num_seen: int) -> tuple[Tensor, Tensor]:
    """The old model's class, int64 (B, H, W), and where its entropy is below the class's threshold, bool."""
    predicted = old_logits.argmax(dim=1)
    return predicted, entropy(old_logits, num_seen) < thresholds.to(predicted.device)[predicted]


@torch.no_grad()
def pseudo_label(
    old_logits: Tensor,
    labels: Tensor,
    thresholds: Tensor,
    num_seen: int,
    no_background_factor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Replace background labels by what the old model is sure of, and weigh each image (PLOP, section 3.3).

    old_logits: (B, num_old, H, W) at label size; labels: (B, H, W) with 0 for all but the new classes and void (255).
    A background pixel takes the old model's class (which may be background) or, if its entropy is not below the
    threshold of that class, void. New-class and void pixels stay.

    Returns targets (B, H, W) in the dtype of the labels, and the adaptive factor float32 (B,) = share of the background
    pixels that were certain. An image without background gets no_background_factor: 0 as in the official code, which
    loses its new-class pixels, or 1 to keep them.
    """
    predicted, certain = confident_prediction(old_logits, thresholds, num_seen)
    background = labels < old_logits.shape[1]
    pseudo = torch.where(certain, predicted, VOID).to(labels.dtype)
    targets = torch.where(background, pseudo, labels)
    num_background = background.flatten(1).sum(dim=1)
    num_certain = (background & certain).flatten(1).sum(dim=1)
    factor = torch.where(num_background > 0, num_certain / (num_background + 1e-6), no_background_factor)
    return targets, factor


def weighted_cross_entropy(new_logits: Tensor, targets: Tensor, factor: Tensor) -> Tensor:
    """Scalar mean over all pixels of factor_b * cross-entropy; void pixels add 0 and count in the mean.

    new_logits: (B, num_seen, H, W); targets: (B, H, W); factor: (B,). Source: PLOP, section 3.3.
    """
    logits = new_logits.to(torch.promote_types(new_logits.dtype, torch.float32))
    per_pixel = pixel_cross_entropy(logits, targets).view(len(targets), -1)
    return (factor * per_pixel.mean(dim=1)).mean()
