"""Encoders by their names in segmentation-models-pytorch, at the stride that the decoder needs."""

import difflib
from collections.abc import Sequence
from typing import cast

import torch
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import nn

from css.model.depthwise import own_depthwise_gradients
from tasks.errors import InputError

STRIDE = 16  # output stride of the published geometry
_SIDE = 64  # of the image that a new encoder is tried on, in pixels
_unused: dict[str, list[str]] = {}  # parameters that no output depends on, by name of the encoder


def build_encoder(name: str) -> nn.Module:
    """An untrained encoder of smp at output stride 16. What no output depends on is frozen.

    EfficientNets keep parts of the head they had: training in several processes would wait for their gradients.
    Raises InputError, with the reason, for an unknown name and for a network that cannot be dilated.
    """
    if not name.startswith(("tu-", "timm-")) and name not in encoders:
        likely = difflib.get_close_matches(name, encoders, n=2) or ["resnet50", "resnet101"]
        raise InputError(
            f"--model.encoder {name!r} is unknown; give {' or '.join(likely)}, another one of "
            "segmentation-models-pytorch (docs/encoders.md has them), or tu-NAME with a name of timm."
        )
    try:
        encoder = get_encoder(name, weights=None, output_stride=STRIDE)
        if name not in _unused:
            _unused[name] = _try_out(encoder)
    except Exception as error:  # every network of timm refuses in its own way
        raise InputError(
            f"--model.encoder {name} cannot be built at output stride {STRIDE} ({_reason(error)}); "
            "choose another one, for example resnet18, resnet50, resnet101 or tu-tf_efficientnet_lite0."
        ) from None
    for parameter in _unused[name]:
        encoder.get_parameter(parameter).requires_grad_(False)
    own_depthwise_gradients(encoder)
    return encoder


def _try_out(encoder: nn.Module) -> list[str]:
    """Names of the parameters that none of the last four maps depends on. Raises ValueError for a wrong last map."""
    training = encoder.training
    maps = encoder.eval()(torch.zeros(1, 3, _SIDE, _SIDE))[-4:]
    encoder.train(training)
    channels = cast("Sequence[int]", encoder.out_channels)
    expected, found = (channels[-1], _SIDE // STRIDE, _SIDE // STRIDE), tuple(maps[-1].shape[1:])
    if found != expected:
        raise ValueError(f"its last map of {_SIDE} pixels is {found}, not {expected}")
    needed = _needed(maps)
    return [name for name, parameter in encoder.named_parameters() if id(parameter) not in needed]


def _needed(maps: Sequence[torch.Tensor]) -> set[int]:
    """Ids of the parameters that maps depend on, read off autograd's graph: gradients would be as large as they are."""
    found, seen, waiting = set(), set(), [m.grad_fn for m in maps]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found.add(id(getattr(node, "variable", None)))
            waiting += [following for following, _ in node.next_functions]
    return found


def _reason(error: Exception) -> str:
    """What an exception says, in a few words; often it says nothing, or names a parameter of a constructor."""
    said = " ".join(str(error).split()).rstrip(".!")[:120]
    if "output_stride" in said:
        return "it has no dilated form"
    return said or f"{type(error).__name__} without a reason"
