"""The shortcut for dilated convolutions must not change any number."""

import pytest
import torch
from torch import nn

from css.model.dilation import SparseTapConv2d, skip_taps_in_padding
from css.model.segmenter import Segmenter


@pytest.mark.parametrize(("size", "dilation", "shortcut"), [((6, 6), 6, True), ((5, 3), 5, True), ((7, 3), 6, False)])
def test_same_output_and_gradients(size, dilation, shortcut):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 5, 3, padding=dilation, dilation=dilation).double()
    fast = nn.Conv2d(4, 5, 3, padding=dilation, dilation=dilation).double()
    fast.load_state_dict(plain.state_dict())
    skip_taps_in_padding(fast)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [convolution(image) for convolution, image in zip((plain, fast), inputs, strict=True)]
    grad = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(grad)
    for expected, found in [outputs, [i.grad for i in inputs], [plain.weight.grad, fast.weight.grad],
                            [plain.bias.grad, fast.bias.grad]]:  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    outer_taps_silent = fast.weight.grad[:, :, 0, 1].abs().max() == 0
    assert bool(outer_taps_silent) is shortcut  # on a larger map the outer taps matter: the shortcut would be wrong


def test_only_dilated_same_convolutions_change():
    layers = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=2, dilation=2), nn.Conv2d(2, 2, 1),
                           nn.Conv2d(2, 2, 3, dilation=2), nn.Conv2d(2, 2, 3, 2, padding=2, dilation=2))  # fmt: skip
    skip_taps_in_padding(layers)
    assert [type(layer) is SparseTapConv2d for layer in layers] == [False, True, False, False, False]


def test_the_segmenter_uses_it_in_its_three_dilated_branches():
    decoder = Segmenter("tu-test_resnet").decoder
    assert sum(isinstance(module, SparseTapConv2d) for module in decoder.modules()) == 3
