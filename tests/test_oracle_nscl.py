"""Null space of features against Adam-NSCL: covariances, projectors, projected updates (archive nscl)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from css.nullspace import GradientStatistics, Rule, for_parameters, project_total, projector

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "nscl.npz", allow_pickle=False)
LAYERS = range(int(ARCHIVE["n_layers"]))
RULE = Rule("ratio", float(ARCHIVE["threshold_ratio"]))


def network():
    """x -> l0 -> ReLU -> l1 -> ReLU -> l2, in float64."""
    modules = []
    for layer in LAYERS:
        weight = torch.from_numpy(ARCHIVE[f"layer{layer}_weight"]).double()
        convolution = nn.Conv2d(
            weight.shape[1], weight.shape[0], int(ARCHIVE["kernel"]), int(ARCHIVE["stride"]), int(ARCHIVE["padding"]),
            bias=False, dtype=torch.float64,
        )  # fmt: skip
        convolution.weight.data = weight
        modules += [convolution, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def weight_name(layer):
    return f"{2 * layer}.weight"


@pytest.fixture(scope="module")
def statistics():
    """Over all single samples, without the reference's mean over the batch before unfolding."""
    batches = ((batch, torch.zeros(len(batch))) for batch in torch.from_numpy(ARCHIVE["inputs"]).double())
    found = GradientStatistics()
    found.collect_features(network(), batches)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_covariance(layer, statistics):
    (gram,) = statistics.grams[weight_name(layer)]
    np.testing.assert_allclose(gram.matrix, ARCHIVE[f"layer{layer}_cov_exact_sum"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layer", LAYERS)
def test_eigenvalues_and_projector_of_the_published_rule(layer, statistics):
    expected = ARCHIVE[f"layer{layer}_eigenvalues_exact_sum"]
    (gram,) = statistics.grams[weight_name(layer)]
    np.testing.assert_allclose(gram.eigen()[0], expected, rtol=1e-8, atol=1e-8 * expected[0])
    found = projector(statistics, RULE)[weight_name(layer)]
    assert found.free == int(ARCHIVE[f"layer{layer}_n_kept_exact_sum"])
    identity = torch.eye(len(expected), dtype=torch.float64)
    np.testing.assert_allclose(found(identity), ARCHIVE[f"layer{layer}_projector_exact_sum"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layer", LAYERS)
def test_reference_with_its_mean_over_the_batch(layer):
    """The published code averages the maps of a batch before unfolding; what every layer sees is then averaged too."""
    model, found = network(), GradientStatistics()
    inputs = {}
    for index in LAYERS:
        model[2 * index].register_forward_pre_hook(lambda _, x, index=index: inputs.update({index: x[0]}))
    for batch in torch.from_numpy(ARCHIVE["inputs"]).double():
        model(batch)
        found.collect_features(model[2 * layer], [(inputs[layer].detach().mean(0, keepdim=True), None)])
    (gram,) = found.grams["weight"]
    reference = ARCHIVE[f"layer{layer}_cov_reference"]
    np.testing.assert_allclose(gram.matrix, reference, rtol=0, atol=3e-4 * np.abs(reference).max())
    project = projector(found, RULE)["weight"]
    assert project.free == int(ARCHIVE[f"layer{layer}_n_kept"]) == ARCHIVE[f"layer{layer}_kept"].sum()
    identity = torch.eye(len(reference), dtype=torch.float64)
    np.testing.assert_allclose(project(identity), ARCHIVE[f"layer{layer}_projector_orthogonal"], rtol=1e-8, atol=1e-8)
    # The reference divides its projector by its Frobenius norm, the root of the free directions: not a projector.
    reference = ARCHIVE[f"layer{layer}_transform_reference"]
    np.testing.assert_allclose(
        project(identity) / project.free**0.5, reference, rtol=0, atol=3e-4 * np.abs(reference).max()
    )
    assert np.abs(reference @ reference - reference).max() > 1e-2
    updated = layer_moved(ARCHIVE[f"layer{layer}_update"], found)
    expected = ARCHIVE[f"layer{layer}_update_projected_reference"]
    np.testing.assert_allclose(updated / project.free**0.5, expected, rtol=0, atol=3e-4 * np.abs(expected).max())


def layer_moved(update, found):
    """The update of a weight that is left after `project_total`."""
    update = torch.from_numpy(update).double()
    layer = nn.Conv2d(update.shape[1], update.shape[0], update.shape[2:], bias=False, dtype=torch.float64)
    start = {"weight": layer.weight.detach().clone()}
    layer.weight.data += update
    assert len(for_parameters(layer, projector(found, RULE))) == 1
    project_total(start, layer, projector(found, RULE))
    return layer.weight.detach() - start["weight"]


def test_rank_deficient_layer_keeps_its_exact_null_space():
    """The documented trap: in float32 the smallest eigenvalue is rounding noise, and the published rule keeps less."""
    inputs = torch.from_numpy(ARCHIVE["deficient_inputs"]).double()
    reference = ARCHIVE["deficient_cov_reference"]
    channels = inputs.shape[1]
    kernel = round((len(reference) / channels) ** 0.5)
    layer = nn.Conv2d(channels, 3, kernel, int(ARCHIVE["stride"]), bias=False, dtype=torch.float64)
    found = GradientStatistics()
    found.collect_features(layer, [(image[None], None) for image in inputs])
    np.testing.assert_allclose(found.grams["weight"][0].matrix, reference, rtol=0, atol=3e-4 * np.abs(reference).max())
    exact = len(reference) - int(ARCHIVE["deficient_rank_exact"])
    assert exact > int(ARCHIVE["deficient_n_kept_reference_float32"])
    assert projector(found, Rule("relative", 1e-9))["weight"].free == exact
