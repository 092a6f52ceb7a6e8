"""What the old tasks need of every layer: M = sum over groups of G G^T."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from css.model.state import evaluating
from css.nullspace.gram import EXACT_UP_TO, SKETCH_ROWS, Gram, Sketch, make_gram
from css.nullspace.layers import groups_of, input_rows, input_width, layers_of, rows_of
from css.system.processes import Processes
from tasks import InputError
from tasks.source import VOID

Group = Literal["set", "class", "batch", "sample"]
Loss = Callable[[Any, Tensor, Tensor], Tensor]  # of the network, images and labels: a scalar
POSITIONS = 4096  # rows of features per batch and layer; more are drawn from at random, in fixed order


class GradientStatistics:
    """Per layer (by the name of its weight) and convolution group the sum of G G^T, G (C1 x C0) = (dL/dW)^T.

    C1 = inputs of an output channel, kernel row and column innermost, and 1 for a bias: weight and bias are protected
    together. Source: Split2MetaFusion, Eq. 5: X (dL/dZ)^T is the transposed gradient of the weight, whatever stride,
    padding, dilation and groups. With G = X (`collect_features`) it is the null space of the features (Adam-NSCL).
    """

    def __init__(self, exact_up_to: int = EXACT_UP_TO, sketch_rows: int = SKETCH_ROWS) -> None:
        self.exact_up_to, self.sketch_rows = exact_up_to, sketch_rows
        self.grams: dict[str, list[Gram | Sketch]] = {}  # one for each group of a grouped convolution
        self.counts: dict[str, int] = {}  # how many G were added
        self.channels: dict[str, int] = {}  # C0

    def collect(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss,
                group: Group = "batch") -> None:  # fmt: skip
        """Adds the gradients of loss(model, images, labels), a scalar, in evaluation mode and full precision.

        `group`: what one G is summed over; "set" is all batches of this call. Layers that are frozen are measured, too,
        those the loss does not depend on are not. The model is left as it was, its .grad included.
        """
        total: dict[str, Tensor] = {}
        with evaluating(model), _requiring_gradients(model):
            for images, labels in batches:
                for some_images, some_labels in _divide(images, labels, group):
                    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
                        gradients = self._gradients(model, loss(model, some_images, some_labels))
                    for name, rows in gradients.items():
                        if group == "set":
                            total[name] = total.get(name, 0) + rows
                        else:
                            self._update(name, rows, rows.shape[0] * rows.shape[1])
        for name, rows in total.items():
            self._update(name, rows, rows.shape[0] * rows.shape[1])

    def collect_features(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Adds the unfolded inputs of every layer, in evaluation mode: G = X, one column per sample and position."""
        hooks = [layer.register_forward_pre_hook(self._feature_hook(name)) for name, layer in layers_of(model).items()]
        try:
            with evaluating(model), torch.no_grad():
                for images, _ in batches:
                    with torch.autocast(images.device.type, enabled=False):
                        model(images)
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, other: "GradientStatistics", normalise: bool = True) -> None:
        """Adds those of a further task.

        `normalise`: each M is divided by its trace first, because the scale of the gradients differs between tasks.
        """
        for name, grams in other.grams.items():
            trace = sum(gram.trace() for gram in grams)
            scale = 1 / trace if normalise and trace > 0 else 1.0
            if name not in self.grams:
                self.grams[name] = [gram.emptied() for gram in grams]
                self.counts[name], self.channels[name] = 0, other.channels[name]
            for mine, theirs in zip(self.grams[name], grams, strict=True):
                mine.merge(cast("Any", theirs), scale)  # of the same kind
            self.counts[name] += 1 if normalise else other.counts[name]

    def merge(self, other: "GradientStatistics") -> None:
        """Adds those of another part of the same data."""
        self.add(other, normalise=False)

    def reduce(self, processes: Processes) -> None:
        """The sum over all processes, the same in every one."""
        if processes.world == 1:
            return
        for name, grams in self.grams.items():
            self.grams[name] = [_reduced(gram, processes) for gram in grams]
            self.counts[name] = int(processes.sum(torch.tensor(self.counts[name])))

    def require_fit(self, model: nn.Module) -> None:
        """Raises InputError if a layer of these statistics is not in the model or has another width."""
        layers = layers_of(model)
        for name, grams in self.grams.items():
            layer = layers.get(name)
            if layer is None or groups_of(layer) != len(grams) or input_width(layer) != grams[0].width:
                raise InputError(
                    f"The null-space statistics hold a layer {name} of width {grams[0].width}, which this network has "
                    "not: they belong to another architecture; delete the run folder and learn its tasks again."
                )

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name: LAYER|GROUP|matrix, or |rows and |lost; LAYER|size: how many G, C0, groups."""
        tensors = {
            f"{name}|{index}|{entry}": value
            for name, grams in self.grams.items()
            for index, gram in enumerate(grams)
            for entry, value in gram.tensors().items()
        }
        sizes = {
            f"{name}|size": torch.tensor([self.counts[name], self.channels[name], len(grams)])
            for name, grams in self.grams.items()
        }
        return tensors | sizes

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], exact_up_to: int = EXACT_UP_TO,
                     sketch_rows: int = SKETCH_ROWS) -> "GradientStatistics":  # fmt: skip
        """Takes back what `tensors` returned."""
        statistics = cls(exact_up_to, sketch_rows)
        for key, value in tensors.items():
            if key.endswith("|size"):
                name = key.removesuffix("|size")
                statistics.counts[name], statistics.channels[name], groups = value.tolist()
                statistics.grams[name] = [_restored(tensors, f"{name}|{group}", sketch_rows) for group in range(groups)]
        return statistics

    @property
    def bytes(self) -> int:
        """Memory of all layers together."""
        return sum(gram.bytes for grams in self.grams.values() for gram in grams)

    def _update(self, name: str, rows: Tensor, channels: int) -> None:
        """Adds rows (groups, n, C1) to the matrices of a layer with C0 = `channels`."""
        if name not in self.grams:
            self.grams[name] = [make_gram(rows.shape[2], self.exact_up_to, self.sketch_rows, rows) for _ in rows]
            self.counts[name], self.channels[name] = 0, channels
        for gram, some in zip(self.grams[name], rows, strict=True):
            gram.update(some)
        self.counts[name] += 1

    def _gradients(self, model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
        """(groups, C0 / groups, C1) of every layer that the loss depends on."""
        layers = layers_of(model)
        weights = [layer.weight for layer in layers.values()]
        biases = [layer.bias for layer in layers.values() if layer.bias is not None]
        gradients = torch.autograd.grad(loss, weights + biases, allow_unused=True)
        of_bias = dict(zip(map(id, biases), gradients[len(weights) :], strict=True))
        rows = {}
        for (name, layer), gradient in zip(layers.items(), gradients, strict=False):
            if gradient is not None:
                bias = None if layer.bias is None else of_bias[id(layer.bias)]
                rows[name] = rows_of(gradient, bias, groups_of(layer))
        return rows

    def _feature_hook(self, name: str) -> Callable:
        def remember(layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor]) -> None:
            rows = input_rows(layer, inputs[0].detach())
            if rows.shape[1] > POSITIONS:  # an unbiased sample, of every batch another one; a restart draws the same
                seed = self.counts.get(name, 0)
                order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed))
                rows = rows[:, order[:POSITIONS].to(rows.device)] * (rows.shape[1] / POSITIONS) ** 0.5
            self._update(name, rows, len(layer.weight))

        return remember


def _restored(tensors: dict[str, Tensor], place: str, sketch_rows: int) -> Gram | Sketch:
    if f"{place}|matrix" in tensors:
        return Gram(tensors[f"{place}|matrix"])
    return Sketch(tensors[f"{place}|rows"], sketch_rows, *tensors[f"{place}|lost"].tolist())


def _reduced(gram: Gram | Sketch, processes: Processes) -> Gram | Sketch:
    if isinstance(gram, Gram):
        return Gram(processes.sum(gram.matrix))
    merged = gram.emptied()
    for rank in range(processes.world):
        mine = gram if rank == processes.rank else gram.emptied()
        rows = torch.zeros(gram.size, gram.width, dtype=gram.rows.dtype, device=gram.rows.device)
        rows[: len(mine.rows)] = mine.rows
        lost = processes.sum(torch.tensor([mine.delta, mine.missing], dtype=torch.float64)).tolist()
        merged.merge(Sketch(processes.sum(rows), gram.size, *lost))
    return merged


def _divide(images: Tensor, labels: Tensor, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts of a batch of which one G each is taken."""
    if group == "sample":
        yield from zip(images.split(1), labels.split(1), strict=True)
    elif group == "class":
        for value in labels.unique().tolist():
            if value != VOID:
                yield images, torch.where(labels == value, labels, VOID)
    else:
        yield images, labels


@contextlib.contextmanager
def _requiring_gradients(model: nn.Module) -> Iterator[None]:
    """The layers' parameters require gradients inside the block, frozen ones as well."""
    layers = layers_of(model).values()
    frozen = [p for layer in layers for p in layer.parameters(recurse=False) if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
