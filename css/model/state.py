"""States of networks: copies, classifiers as one matrix; parts trained, or evaluation mode, for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from css.model.segmenter import Segmenter

State = Mapping[str, Tensor]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state of a network."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """`load_state_dict` within an autocast block, which would go on with the casts of the weights it has seen."""
    model.load_state_dict(state)
    torch.clear_autocast_cache()


def classifier_parameters(model: Segmenter) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (channels, D) and bias (channels,) of the classifiers of all tasks, as of one linear layer, on CPU."""
    weight = torch.cat([classifier.weight for classifier in linear_classifiers(model)]).flatten(1)
    bias = torch.cat([bias_of(classifier) for classifier in linear_classifiers(model)])
    return weight.detach().cpu(), bias.detach().cpu()


@torch.no_grad()
def set_classifiers(model: Segmenter, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Gives the classifiers what `classifier_parameters` returns."""
    sizes = [classifier.out_channels for classifier in linear_classifiers(model)]
    for classifier, rows, offsets in zip(
        linear_classifiers(model), weight.split(sizes), bias.split(sizes), strict=True
    ):
        classifier.weight.copy_(rows[:, :, None, None])
        bias_of(classifier).copy_(offsets)


def restore_background(model: Segmenter, teacher: Segmenter) -> None:
    """The old classifiers as they were before the background made room for new classes: their logits the teacher's."""
    _, bias = classifier_parameters(teacher)
    weight, grown = classifier_parameters(model)
    set_classifiers(model, weight, torch.cat([bias, grown[len(bias) :]]))


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
