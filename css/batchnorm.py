"""BatchNorm over groups of a fixed number of images, so that one process can reproduce several."""

import torch
from torch import nn
from torch.nn import functional as F


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch statistics over each `group` consecutive images instead of over the whole batch.

    In training, one process with B images and groups of B / w normalises exactly as w processes with B / w images
    each and unsynchronised BatchNorm. Running statistics follow the first group alone, as DistributedDataParallel
    keeps those of its first process. In evaluation it is a plain BatchNorm2d. Input (B, C, H, W).
    """

    group: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or len(x) <= self.group:
            return super().forward(x)
        first, *others = x.split(self.group)
        normalised = [super().forward(first)]
        normalised += [F.batch_norm(part, None, None, self.weight, self.bias, True, eps=self.eps) for part in others]
        return torch.cat(normalised)


def group_batch_norm(model: nn.Module, group: int) -> None:
    """Turns every BatchNorm2d of the model into one over groups of `group` images, in place; parameters are kept."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GroupBatchNorm2d
            module.group = group
