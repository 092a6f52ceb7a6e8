"""A network as one graph: any image in, logits of the same size out."""

from collections.abc import Sequence

import torch
from timm.layers import to_2tuple
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from css.model.dilation import SparseTapConv2d
from css.model.segmenter import Segmenter
from css.predict.network import MULTIPLE

_SIDES = {"min": 32, "max": 16384}


class Graph(nn.Module):
    """Images uint8 (1, 3, H, W) to logits float32 (1, C, H, W).

    Normalisation, the padding that the network needs, and the enlargement of its logits are part of it, so that a user
    has nothing to add but the largest channel.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model.frozen().float().cpu()
        for module in self.model.modules():
            # Shortcuts and paddings that look at the size of a map are right for one size only, a graph is for all.
            if fixed := _FIXED.get(type(module)):
                module.__class__ = fixed

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, both as above."""
        height, width = images.shape[-2:]
        rows, columns = (torch.arange(_up(side)).clamp(max=side - 1) for side in (height, width))
        padded = images.index_select(2, rows).index_select(
            3, columns
        )  # the last row and column repeated, as in `network.padded`
        logits = self.model(self.model.normalise(padded)).logits
        full = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        return full.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))


def traced(graph: Graph) -> ExportedProgram:
    """The graph with height and width left open."""
    example = torch.zeros(1, 3, 96, 112, dtype=torch.uint8)
    sides = {2: Dim("height", **_SIDES), 3: Dim("width", **_SIDES)}
    with torch.no_grad():
        # Guards that the tracer derives from padding are true, but it cannot prove them: they are checked when it runs.
        return torch.export.export(
            graph, (example,), dynamic_shapes={"images": sides}, prefer_deferred_runtime_asserts_over_guards=True
        )


class _FixedConv2d(Conv2dSame):
    """TensorFlow's "same" padding where the stride divides the map, as it does wherever 16 divides the image."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the padded map."""
        x = F.pad(x, _same(self.kernel_size, self.stride, self.dilation))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _FixedAvgPool2d(AvgPool2dSame):
    """The same for the mean over windows."""

    def forward(self, x: Tensor) -> Tensor:
        """The means of the padded map."""
        kernel, stride = to_2tuple(self.kernel_size), to_2tuple(self.stride)
        return F.avg_pool2d(F.pad(x, _same(kernel, stride, (1, 1))), kernel, stride)


_FIXED: dict[type, type] = {SparseTapConv2d: nn.Conv2d, Conv2dSame: _FixedConv2d, AvgPool2dSame: _FixedAvgPool2d}


def _same(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Pixels added left, right, above and below: (kernel - 1) dilation + 1 - stride on both sides together."""
    total = [max(0, (k - 1) * d + 1 - s) for k, s, d in zip(kernel, stride, dilation, strict=True)]
    return [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]


def _up(side: int) -> int:
    return (side + MULTIPLE - 1) // MULTIPLE * MULTIPLE
