"""Cross-entropy and entropy of pixels, in either layout."""

import math

import pytest
import torch

from css.losses import ROWS_FROM, cross_entropy, in_rows, pixel_cross_entropy, upsample
from plop_baseline.pseudo_labels import entropy, weighted_cross_entropy
from tasks.source import VOID

CHANNELS = [3, ROWS_FROM - 1, ROWS_FROM, 21]


def maps(channels, layout=torch.channels_last):
    generator = torch.Generator().manual_seed(channels)
    logits = 3 * torch.randn(2, channels, 3, 4, generator=generator)
    labels = torch.randint(channels, (2, 6, 8), generator=generator, dtype=torch.uint8)
    labels[0, :2, 3:] = VOID
    return logits.contiguous(memory_format=layout).requires_grad_(), labels


def by_hand(logits, labels):
    """(B, H, W) float64: minus the logarithm of the label's probability, 0 where void."""
    log_p = upsample(logits.double(), labels).log_softmax(1)
    chosen = log_p.gather(1, labels.long().clamp(max=log_p.shape[1] - 1)[:, None])[:, 0]
    return torch.where(labels == VOID, 0.0, -chosen)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_cross_entropy_and_its_gradient_in_either_layout(channels, layout):
    logits, labels = maps(channels, layout)
    expected = by_hand(logits, labels)
    loss = cross_entropy(logits, labels)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-6)
    (gradient,), (wanted,) = (torch.autograd.grad(value, logits) for value in (loss, expected.mean()))
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)
    # pixels taken in another order, as of maps that are flattened as they are, would be seen
    assert loss.item() != pytest.approx(by_hand(logits, labels.flip(2)).mean().item(), rel=1e-3)


@pytest.mark.parametrize("channels", CHANNELS)
def test_every_pixel_keeps_its_place(channels):
    logits, labels = maps(channels)
    large, expected = upsample(logits, labels), by_hand(logits, labels)
    torch.testing.assert_close(
        pixel_cross_entropy(large, labels).view(labels.shape).double(), expected, rtol=1e-5, atol=1e-6
    )
    factor = torch.tensor([0.25, 1.0])
    weighted = (factor.double() * expected.flatten(1).mean(1)).mean()
    assert weighted_cross_entropy(large, labels, factor).item() == pytest.approx(weighted.item(), rel=1e-6)
    p = large.double().softmax(1)
    mean = -(p * (p + 1e-8).log()).mean(1) / (math.log(channels) * math.log(channels + 1))
    torch.testing.assert_close(entropy(large, channels + 1).double(), mean, rtol=1e-5, atol=1e-8)


def test_rows_are_taken_of_many_channels_alone():
    assert in_rows(torch.zeros(2, ROWS_FROM - 1, 3, 3)).shape == (2, ROWS_FROM - 1, 3, 3)
    logits = torch.rand(2, ROWS_FROM, 3, 5).contiguous(memory_format=torch.channels_last)
    rows = in_rows(logits)
    assert rows.shape == (30, ROWS_FROM)
    assert rows.data_ptr() == logits.data_ptr()  # nothing is copied
    assert in_rows(torch.zeros(4, ROWS_FROM)).shape == (4, ROWS_FROM)
