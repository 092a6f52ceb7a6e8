"""BatchNorm statistics of a network measured anew, for example after its weights were averaged."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets running_mean and running_var of every BatchNorm to those of its inputs over all batches, in place.

    Equal weight for every value, and the variance of all together (not the mean of the batches' variances, which leaves
    out how far their means lie apart); unbiased, as PyTorch keeps it. Each batch is normalised by its own statistics on
    the way, as in training, so with one batch the result is exact for every layer, and with several for the first and
    close for deeper ones. Parameters, modes and momentum stay as they are. No batch: nothing is changed.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    sums = {layer: _Moments() for layer in layers}
    kept = {layer: (layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone())
            for layer in layers}  # fmt: skip
    modes = [(module, module.training) for module in model.modules()]
    hooks = [layer.register_forward_pre_hook(lambda module, inputs: sums[module].update(inputs[0])) for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.train()
        for images in batches:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
        for layer, (mean, variance, tracked) in kept.items():
            layer.num_batches_tracked.copy_(tracked)
            found = sums[layer]
            layer.running_mean.copy_(mean if not found.count else found.mean)
            layer.running_var.copy_(variance if not found.count else found.variance())


class _Moments:
    """Mean and squared deviation per channel of all values so far, in float64 (Chan's parallel update)."""

    def __init__(self):
        self.count, self.mean, self.deviation = 0, 0.0, 0.0

    def update(self, x: Tensor) -> None:
        values = x.detach().transpose(0, 1).flatten(1).double()
        count = values.shape[1]
        mean = values.mean(1)
        gap, total = mean - self.mean, self.count + count
        self.deviation = self.deviation + (values - mean[:, None]).square().sum(1) + gap**2 * self.count * count / total
        self.mean = self.mean + gap * count / total
        self.count = total

    def variance(self) -> Tensor:
        return self.deviation / max(self.count - 1, 1)
