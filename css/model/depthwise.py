"""Dilated depthwise convolutions whose gradients are right, and fast, on CPUs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class DilatedDepthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1 whose backward pass keeps away from oneDNN's.

    In bfloat16, channels last, that gives a wrong weight gradient for dilation > 1 and outputs 29 or wider on CPUs with
    AVX-512 (PyTorch 2.14, oneDNN 3.12), and it is slow at any size. The gradient of the input is a convolution itself,
    of the output's with the flipped kernel; that of the weight is right in contiguous memory. See docs/performance.md.
    """

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
        """x (B, C, H, W), weight (C, 1, k, l); autocast applies."""
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(x, weight, None, 1, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradients of x and weight, each in the type of its own."""
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            reach = [d * (k - 1) - p for d, k, p in zip(ctx.dilation, weight.shape[2:], ctx.padding, strict=True)]
            flipped = weight.flip(2, 3).to(gradient.dtype)
            of_x = F.conv2d(gradient, flipped, None, 1, reach, ctx.dilation, len(weight)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            # Its values do not matter, its strides do: (C, 1, k, l) channels last counts as contiguous, too.
            shape = torch.empty(weight.shape, dtype=gradient.dtype)
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient.contiguous(), x.to(gradient.dtype).contiguous(), shape, None,
                [1, 1], ctx.padding, ctx.dilation, False, [0, 0], len(weight), [False, True, False],
            )  # fmt: skip
            of_weight = torch.empty_like(weight).copy_(of_weight)  # in the layout of the weight, as optimisers need it
        return of_x, of_weight, None, None


class DilatedDepthwiseConv2d(nn.Conv2d):
    """What `own_depthwise_gradients` makes of a layer: same output, same parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W). Where no gradient is wanted, and on GPUs, PyTorch's own convolution."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        output = DilatedDepthwise.apply(x, self.weight, self.padding, self.dilation)
        return output if self.bias is None else output + self.bias.to(output.dtype)[:, None, None]


def own_depthwise_gradients(model: nn.Module) -> None:
    """Gives every dilated depthwise convolution of stride 1 this backward pass, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_dilated_depthwise(module) and _is_plain(module):
            module.__class__ = DilatedDepthwiseConv2d


def _is_dilated_depthwise(layer: nn.Conv2d) -> bool:
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return (
        layer.in_channels == layer.out_channels == layer.groups > 1
        and max(layer.dilation) > 1
        and tuple(layer.stride) == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(padding <= most for padding, most in zip(layer.padding, reach, strict=True))
    )


def _is_plain(layer: nn.Conv2d) -> bool:
    """Does it compute no more than a convolution? smp's EfficientNets pad in a module, which dilation replaces."""
    return type(layer).forward is nn.Conv2d.forward or isinstance(getattr(layer, "static_padding", None), nn.Identity)
