"""A network as one graph: any image in, logits of the same size out."""

import torch
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
            if isinstance(module, SparseTapConv2d):
                # Its shortcut is right for one size of map only, a graph is for all.
                module.__class__ = nn.Conv2d  # type: ignore[assignment]

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


def _up(side: int) -> int:
    return (side + MULTIPLE - 1) // MULTIPLE * MULTIPLE
