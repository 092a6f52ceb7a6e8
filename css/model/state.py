"""States of networks: copies, classifiers as one matrix; parts trained, or evaluation mode, for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from css.model.segmenter import Segmenter

State = Mapping[str, Tensor]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state of a network."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """`load_state_dict` within an autocast block, which would go on with the casts of the weights it has seen."""
    model.load_state_dict(state)
    torch.clear_autocast_cache()


class Classifiers(NamedTuple):
    """The classifiers of all tasks as one layer, and the hidden one before them if there is one."""

    weight: Tensor  # (channels, D), with a hidden layer (channels, D + units)
    bias: Tensor  # (channels,)
    hidden_weight: Tensor | None = None  # (units, D)
    hidden_bias: Tensor | None = None  # (units,)

    def logits(self, features: Tensor) -> Tensor:
        """(N, channels) of features (N, D)."""
        if self.hidden_weight is not None:
            features = torch.cat([features, F.linear(features, self.hidden_weight, self.hidden_bias).relu()], 1)
        return F.linear(features, self.weight, self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """By name, those that there are."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def classifiers_of(model: Segmenter) -> Classifiers:
    """Those of a network whose classifiers are linear, or have one hidden layer together, on CPU."""
    weight = torch.cat([classifier.weight for classifier in linear_classifiers(model)]).flatten(1)
    parts = [weight, torch.cat([bias_of(classifier) for classifier in linear_classifiers(model)])]
    if model.hidden is not None:
        parts += [model.hidden.weight.flatten(1).clone(), bias_of(model.hidden).clone()]  # as torch.cat does
    return Classifiers(*(part.detach().cpu() for part in parts))


@torch.no_grad()
def set_classifiers(model: Segmenter, found: Classifiers) -> None:
    """Gives the network what `classifiers_of` returns."""
    weight, bias, hidden_weight, hidden_bias = found
    if model.hidden is not None and hidden_weight is not None and hidden_bias is not None:
        model.hidden.weight.copy_(hidden_weight[:, :, None, None])
        bias_of(model.hidden).copy_(hidden_bias)
    sizes = [classifier.out_channels for classifier in linear_classifiers(model)]
    for classifier, rows, offsets in zip(
        linear_classifiers(model), weight.split(sizes), bias.split(sizes), strict=True
    ):
        classifier.weight.copy_(rows[:, :, None, None])
        bias_of(classifier).copy_(offsets)


def restore_background(model: Segmenter, teacher: Segmenter) -> None:
    """The old classifiers as they were before the background made room for new classes: their logits the teacher's."""
    bias, found = classifiers_of(teacher).bias, classifiers_of(model)
    set_classifiers(model, found._replace(bias=torch.cat([bias, found.bias[len(bias) :]])))


def linear_classifiers(model: Segmenter) -> list[nn.Conv2d]:
    """The classifiers of all tasks, where they are 1x1 convolutions."""
    return [cast("nn.Conv2d", classifier) for classifier in model.classifiers]


def bias_of(classifier: nn.Conv2d) -> Tensor:
    """The bias, which a classifier always has."""
    assert classifier.bias is not None
    return classifier.bias


@contextmanager
def only(model: nn.Module, *parts: nn.Module) -> Iterator[None]:
    """Inside the block these parts of a network alone are trained; after it, what was trained before."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    try:
        yield
    finally:
        for part in parts:
            part.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


class evaluating:
    """Evaluation mode inside the block; every module's own mode after it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes:
            module.training = mode
