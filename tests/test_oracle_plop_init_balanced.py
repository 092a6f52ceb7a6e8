"""The background-balanced initialisation of a new classifier against the official implementations of PLOP and MiB."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from css.model.segmenter import Segmenter

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "plop_init_balanced.npz", allow_pickle=False)
CASES = range(int(ARCHIVE["n_cases"]))


def sizes(case):
    return ARCHIVE[f"case{case}_classes"].tolist()


def stored(case, when, step):
    weight, bias = (ARCHIVE[f"case{case}_{kind}_{when}_{step}"] for kind in ("weight", "bias"))
    return torch.from_numpy(weight), torch.from_numpy(bias)


def grown(case, init):
    """A Segmenter with the archive's classifiers of all steps but the last, which grow() adds."""
    model = Segmenter("tu-test_resnet")
    *earlier, last = sizes(case)
    for step, _ in enumerate(earlier):
        weight, bias = stored(case, "before", step)
        classifier = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        classifier.load_state_dict({"weight": weight, "bias": bias})
        model.classifiers.append(classifier)
    model.classes = list(range(sum(earlier)))
    model.grow(range(sum(earlier), sum(earlier) + last), init)
    return model


def deviation(case, classifiers):
    """Largest distance from the archive over all weights and biases of all steps."""
    pairs = [
        pair
        for step, classifier in enumerate(classifiers)
        for pair in zip((classifier.weight, classifier.bias), stored(case, "after", step), strict=True)
    ]
    return max((actual.detach() - expected).abs().max().item() for actual, expected in pairs)


@pytest.mark.parametrize("case", CASES)
def test_all_classifiers_after_growing(case):
    model = grown(case, "balanced")
    assert [classifier.out_channels for classifier in model.classifiers] == sizes(case)
    assert model.classes == list(range(sum(sizes(case))))
    assert deviation(case, model.classifiers) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_plausible_mistakes_fail(case):
    """A random classifier; a background whose own bias is not lowered; log of all classes instead of the new ones."""
    assert deviation(case, grown(case, "random").classifiers) > 0.01
    model = grown(case, "balanced")
    with torch.no_grad():
        model.classifiers[0].bias[0] += np.log(sizes(case)[-1] + 1)
    assert deviation(case, model.classifiers) > 0.01
    model = grown(case, "balanced")
    with torch.no_grad():
        model.classifiers[-1].bias += np.log(sizes(case)[-1] + 1) - np.log(sum(sizes(case)) + 1)
    assert deviation(case, model.classifiers) > 0.01
