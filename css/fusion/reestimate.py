"""BatchNorm statistics of a network measured anew, for example after its weights were averaged."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from css.model.state import evaluating


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets running_mean and running_var of every BatchNorm to those of its inputs over all batches, in place.

    Equal weight for every value, and the variance of all together (not the mean of the batches' variances, which leaves
    out how far their means lie apart); unbiased, as PyTorch keeps it. On the way every layer normalises by all values
    it has seen so far. So with one batch the result is exact for every layer (the batch's statistics, as in training);
    with several for the first layer, and close for deeper ones, whose inputs the earlier batches saw normalised by
    statistics that were not final yet. Groups (`css.model.batchnorm`) make no difference, and a batch may be a single
    image. All else stays as it is; without a batch, everything.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    moments = {layer: _RunningMoments() for layer in layers}

    def measure(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        assert layer.running_mean is not None and layer.running_var is not None
        moments[layer].update(inputs[0])
        layer.running_mean.copy_(moments[layer].mean)
        layer.running_var.copy_(moments[layer].deviation / moments[layer].count)  # biased, as batches are normalised

    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    try:
        with evaluating(model):
            for images in batches:
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, found in moments.items():
        if found.count > 1 and layer.running_var is not None:
            layer.running_var.copy_(found.deviation / (found.count - 1))


class _RunningMoments:
    """Mean and squared deviation per channel of all values so far, in float64 (Chan's parallel update)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.deviation = torch.zeros((), dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        values = x.detach().transpose(0, 1).flatten(1).double()
        count = values.shape[1]
        mean = values.mean(1)
        gap, total = mean - self.mean, self.count + count
        self.deviation = self.deviation + (values - mean[:, None]).square().sum(1) + gap**2 * self.count * count / total
        self.mean = self.mean + gap * count / total
        self.count = total
