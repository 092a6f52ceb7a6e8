"""Reading an archive of oracles: its cases, and their arrays as tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

FOLDER = Path(__file__).parent / "oracles"
EXACT = 1e-9  # relative to the largest magnitude of an array, in float64


class Archive:
    """Arrays by case and name; floating-point ones as float64, in which the oracles were computed."""

    def __init__(self, name: str):
        self.arrays = np.load(FOLDER / f"{name}.npz", allow_pickle=False)
        self.cases = pytest.mark.parametrize("case", range(int(self.arrays["n_cases"])))

    def array(self, case, name):
        found = torch.from_numpy(np.atleast_1d(self.arrays[f"case{case}_{name}"]))
        found = found.reshape(self.arrays[f"case{case}_{name}"].shape)
        return found.double() if found.is_floating_point() else found

    def number(self, case, name):
        return self.arrays[f"case{case}_{name}"].item()

    def has(self, case, name):
        return f"case{case}_{name}" in self.arrays.files

    def group(self, case, prefix):
        """The arrays PREFIX/NAME, by NAME."""
        start = f"case{case}_{prefix}/"
        names = [key.removeprefix(start) for key in self.arrays.files if key.startswith(start)]
        return {name: self.array(case, f"{prefix}/{name}") for name in names}


def assert_close(actual, expected, rtol=EXACT):
    """Differences are measured in the largest magnitude of what is expected."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    scale = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual.detach().double(), expected, rtol=0, atol=rtol * scale + 1e-14)


def differs(actual, expected, rtol=1e-3):
    """More than rounding could."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return (actual.detach() - expected).abs().max().item() > rtol * expected.abs().max().item()


def resized(maps, size):
    """Bilinear, half-pixel centres, in float64."""
    return F.interpolate(maps, size=tuple(int(n) for n in size), mode="bilinear", align_corners=False)
