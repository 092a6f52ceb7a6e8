"""The own backward pass of dilated depthwise convolutions against the numbers in fp32 and fp64."""

import copy

import pytest
import torch
from torch import nn

from css.model.depthwise import DilatedDepthwiseConv2d, own_depthwise_gradients
from css.model.segmenter import Segmenter

CHANNELS = 32


def gradients(ours: bool, side: int, dtype: torch.dtype, autocast: bool = False, layout=torch.channels_last):
    """Output, gradients of input and weight of a 3x3 layer with dilation 2, from the same numbers in every call."""
    torch.manual_seed(0)
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2, groups=CHANNELS, bias=False)
    x, of_output = torch.randn(2, 2, CHANNELS, side, side)
    if ours:
        own_depthwise_gradients(layer)
        assert type(layer) is DilatedDepthwiseConv2d
    if not autocast:
        layer, x = layer.to(dtype), x.to(dtype)
    layer, x = layer.to(memory_format=layout), x.to(memory_format=layout).detach().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=autocast):
        output = layer(x)
    output.backward(of_output.to(output.dtype).contiguous(memory_format=layout))
    return output.detach(), x.grad, layer.weight.grad


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("side", [16, 28, 29, 32, 33, 48, 64])
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_within_one_percent_of_fp32(side, autocast):
    expected = gradients(False, side, torch.float32, layout=torch.contiguous_format)
    found = gradients(True, side, torch.bfloat16, autocast)
    assert [round(error(*pair), 4) < 0.01 for pair in zip(found, expected, strict=True)] == [True] * 3


def test_pytorch_is_wrong_where_this_is_needed():
    """The negative control. Where it is right, on another CPU or in another version, this says so."""
    expected = gradients(False, 32, torch.float32, layout=torch.contiguous_format)[2]
    wrong = error(gradients(False, 32, torch.bfloat16)[2], expected)
    if wrong < 0.01:
        pytest.skip(f"PyTorch {torch.__version__} with {torch.backends.cpu.get_cpu_capability()} has not the fault")
    assert wrong > 1  # the gradient has nothing to do with the right one


def test_dtype_and_layout_of_the_gradients():
    _, of_x, of_weight = gradients(True, 16, torch.bfloat16, autocast=True)
    assert (of_x.dtype, of_weight.dtype) == (torch.float32, torch.float32)
    assert of_x.is_contiguous(memory_format=torch.channels_last)
    weight = torch.empty(CHANNELS, 1, 3, 3).to(memory_format=torch.channels_last)
    assert of_weight.stride() == weight.stride()


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"), [(3, 2, 2), (3, 0, 2), (5, 8, 4), (5, 3, 2), ((3, 5), (1, 4), (1, 2))]
)
def test_exact_in_double_precision(kernel, padding, dilation):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 3, kernel, padding=padding, dilation=dilation, groups=3).double()
    own_depthwise_gradients(layer)
    assert type(layer) is DilatedDepthwiseConv2d
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, *layer.parameters())[:1])
    weight, bias = layer.weight, layer.bias

    def of_parameters(weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x.detach(),))

    inputs = [value.detach().clone().requires_grad_() for value in (weight, bias)]
    assert torch.autograd.gradcheck(of_parameters, inputs)


def test_second_derivatives_are_refused_not_wrong():
    layer = nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3)
    own_depthwise_gradients(layer)
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1}, {"padding": 2, "dilation": 2, "stride": 2}, {"padding": 2, "dilation": 2, "groups": 2},
        {"padding": 2, "dilation": 2, "padding_mode": "reflect"}, {"padding": 5, "dilation": 2},
        {"padding": "same", "dilation": 2},
    ],
)  # fmt: skip
def test_other_layers_stay_as_they_are(options):
    layer = nn.Conv2d(4, 4, 3, **{"groups": 4, **options})
    own_depthwise_gradients(layer)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize(("encoder", "layers"), [("mobilenet_v2", 4), ("efficientnet-b0", 7), ("resnet18", 0)])
def test_encoders_use_it(encoder, layers):
    model = copy.deepcopy(Segmenter(encoder).encoder)
    assert sum(isinstance(module, DilatedDepthwiseConv2d) for module in model.modules()) == layers


def test_a_network_has_the_gradients_it_had_in_fp32():
    torch.manual_seed(0)
    ours = Segmenter("mobilenet_v2").encoder.eval()
    plain = copy.deepcopy(ours)
    for module in plain.modules():
        if isinstance(module, DilatedDepthwiseConv2d):
            module.__class__ = nn.Conv2d
    images = torch.randn(1, 3, 64, 64)
    for model in (ours, plain):
        model(images)[-1].square().mean().backward()
    with torch.no_grad():
        assert torch.equal(ours(images)[-1], plain(images)[-1])
    for expected, found in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-6)
