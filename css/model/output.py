"""What a network returns."""

from typing import NamedTuple

import torch


class Output(NamedTuple):
    """Of a batch of B images: logits at low resolution, and what they were made from."""

    logits: torch.Tensor  # (B, seen classes, h, w), low resolution
    features: torch.Tensor  # (B, D, h, w), what the classifiers see
    taps: tuple[torch.Tensor, ...]  # one map per encoder stage; for ResNets the pre-activation sum of its last block


def logits_of(output: Output | torch.Tensor) -> torch.Tensor:
    """The logits of whatever a network returns: those of a Segmenter's Output, or a tensor as it is."""
    return output if isinstance(output, torch.Tensor) else output.logits
