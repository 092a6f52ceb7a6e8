"""Dilated convolutions on maps smaller than their dilation."""

import torch
from torch import nn
from torch.nn import functional as F


class SparseTapConv2d(nn.Conv2d):
    """A padded 3x3 convolution that leaves out taps which never meet the map.

    With dilation >= height and width, eight of the nine taps see nothing but padding, and the convolution is the 1x1
    convolution of its centre: same output, same gradients (those of the other taps are zero). The ASPP branches of
    small crops are of this kind: at 96 px all three. oneDNN skips such taps in the forward pass but not in the backward
    pass, which then takes ten times the forward time instead of twice; see docs/performance.md.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution of (B, C, H, W), by its centre alone where that is all that meets the map."""
        if min(self.dilation) < max(x.shape[2:]):
            return super().forward(x)
        return F.conv2d(x, self.weight[:, :, 1:2, 1:2], self.bias, groups=self.groups)


def skip_taps_in_padding(model: nn.Module) -> None:
    """Makes every dilated 3x3 convolution with "same" padding a SparseTapConv2d, in place; parameters are kept."""
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (3, 3)
            and module.stride == (1, 1)
            and module.padding == module.dilation != (1, 1)
            and module.padding_mode == "zeros"
        ):
            module.__class__ = SparseTapConv2d
