"""Hypercolumns: directions against NumPy's principal components, and a network that begins to see them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from small_shapes import first_model, small_stream

from css.model.hypercolumn import columns, fit_directions
from css.model.segmenter import Segmenter
from css.model.state import Classifiers, classifiers_of, set_classifiers
from css.s2mf.moments import extend

WIDTHS = (5, 7, 4)


def stages(seed=0, batch=20):
    """Maps of three stages of very different size and spread, the first at twice the resolution."""
    generator = torch.Generator().manual_seed(seed)
    sizes, spreads = (8, 4, 4), (0.1, 3.0, 20.0)
    noise = [torch.randn(batch, width, size, size, generator=generator)
             for width, size in zip(WIDTHS, sizes, strict=True)]  # fmt: skip
    common = torch.nn.functional.interpolate(noise[2][:, :1], size=8)
    noise[0] = noise[0] + common  # stages are correlated
    return [spread * (some + 0.5) for spread, some in zip(spreads, noise, strict=True)]


def rows_of(maps):
    return columns(maps).permute(0, 2, 3, 1).flatten(0, 2)


def fitted(number, first=None):
    x = extend(rows_of(stages()).double())
    own = torch.zeros(0, WIDTHS[-1]) if first is None else first
    return fit_directions(x.T @ x, WIDTHS, (own, torch.zeros(len(own))), number)


def numpy_components(number):
    """By the textbook: centred rows of scaled columns, eigenvectors of their covariance."""
    x = rows_of(stages()).numpy().astype(float)
    ends = np.cumsum((0, *WIDTHS))
    scale = np.concatenate([np.full(b - a, np.sqrt((x[:, a:b] ** 2).mean())) for a, b in pairwise(ends)])
    x = x / scale
    _, values, vectors = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return x, vectors[:number], values**2 / len(x)


def test_columns_are_pooled_to_the_last_stage():
    maps = stages()
    found = columns(maps)
    assert found.shape == (20, sum(WIDTHS), 4, 4)
    torch.testing.assert_close(found[3, 2, 1, 0], maps[0][3, 2, 2:4, 0:2].mean())
    assert torch.equal(found[:, 5:12], maps[1])


def test_projection_is_numpys_principal_components():
    hypercolumn = fitted(6)
    x, components, variances = numpy_components(6)
    found = rows_of([hypercolumn(stages())]).numpy()
    spread = np.sqrt(variances[:6].mean())
    expected = (x - x.mean(0)) @ components.T / spread
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-4)
    np.testing.assert_allclose(found.var(0), variances[:6] / spread**2, rtol=1e-4)
    other = (x - x.mean(0)) @ np.roll(components, 1, axis=0).T / spread
    assert not np.allclose(np.abs(found), np.abs(other), atol=0.1)


@pytest.mark.parametrize("first", [None, torch.randn(3, 4), torch.ones(3, 4)])
def test_directions_are_orthonormal(first):
    directions = fitted(9, first).directions
    torch.testing.assert_close(directions.T @ directions, torch.eye(9), atol=1e-5, rtol=0)


def test_answers_of_the_first_classifier_stay_affine_functions_of_what_is_kept():
    first = torch.randn(3, WIDTHS[-1])
    x = rows_of(stages())
    kept = rows_of([fitted(5, first)(stages())])
    answers = x[:, -WIDTHS[-1] :] @ first.T
    for z, exact in ((kept, True), (rows_of([fitted(5)(stages())]), False)):
        error = answers - extend(z) @ torch.linalg.lstsq(extend(z).double(), answers.double()).solution.float()
        assert (error.abs().max() < 1e-3 * answers.std()) == exact


def test_a_dead_channel():
    maps = stages()
    maps[1] = maps[1] * torch.tensor([1, 0, 1, 1, 1, 1, 1.0])[:, None, None]
    x = extend(rows_of(maps).double())
    hypercolumn = fit_directions(x.T @ x, WIDTHS, (torch.randn(2, 4), torch.zeros(2)), 16)
    torch.testing.assert_close(hypercolumn.directions.T @ hypercolumn.directions, torch.eye(16), atol=1e-5, rtol=0)
    assert hypercolumn(maps).isfinite().all()


def seeing_model():
    """A small network that sees hypercolumns, with arbitrary directions and classifiers."""
    model = first_model(small_stream())
    widths = [*model.encoder.out_channels[-3:], 256]
    x = extend(torch.randn(700, sum(widths), generator=torch.Generator().manual_seed(0)).double())
    model.see(fit_directions(x.T @ x, widths, (torch.zeros(0, 256), torch.zeros(0)), 40))
    return model.eval()


def test_a_network_begins_to_see_and_is_saved_and_loaded_bit_for_bit():
    images = torch.randn(2, 3, 64, 96)
    model, other = seeing_model(), first_model(small_stream()).eval()
    output = model(images)
    assert output.features.shape == (2, 40, 4, 6) and output.logits.shape == (2, 11, 4, 6)
    assert other(images).features.shape == (2, 256, 4, 6)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images).logits, output.logits)
    model.grow([20])
    assert model(images).logits.shape == (2, 12, 4, 6)


@pytest.mark.parametrize("units", [0, 8])
def test_classifiers_with_a_hidden_layer(units):
    """As one function of features, and as layers of the network; loaded again from its state."""
    model, images = first_model(small_stream()).eval(), torch.randn(4, 3, 64, 64)
    x = extend(rows_of(model.column(images)).detach().double())
    model.see(fit_directions(x.T @ x, model.column_widths, classifiers_of(model)[:2], 40), units)
    with torch.no_grad():
        output = model(images)
        found = classifiers_of(model)
        torch.testing.assert_close(
            found.logits(rows_of([output.features])), rows_of([output.logits]), rtol=1e-4, atol=1e-4
        )
        assert found.weight.shape == (11, 40 + units) and len(found.tensors()) == (4 if units else 2)
        other = first_model(small_stream()).eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images).logits, output.logits)
        if units:
            set_classifiers(other, found._replace(hidden_bias=found.hidden_bias + 1))
            assert not torch.allclose(other(images).logits, output.logits)


def test_hypercolumns_are_as_exact_in_mixed_precision():
    model, images = seeing_model(), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(images)
    assert mixed.features.dtype == mixed.logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("encoder", "widths"),
    [("tu-convnext_tiny", [192, 384, 768, 256]), ("tu-tf_efficientnet_lite0", [40, 112, 320, 256])],
)
def test_columns_of_other_encoders(encoder, widths):
    """Convnext has a stage without channels, which is none of those that are used."""
    model = Segmenter(encoder).eval()
    with torch.no_grad():
        maps = model.column(torch.zeros(1, 3, 64, 64))
    assert model.column_widths == widths == [found.shape[1] for found in maps]
    assert columns(maps).shape == (1, sum(widths), 4, 4)


@pytest.mark.parametrize("kept", [True, False])
def test_the_networks_own_answers_are_kept(kept):
    """With its classifier's rows among 40 directions its logits are the same, with components alone they are not."""
    model, images = first_model(small_stream()).eval(), torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        logits = model(images).logits
        x = extend(rows_of(model.column(images)).double())
    own = classifiers_of(model)[:2]
    hypercolumn = fit_directions(x.T @ x, model.column_widths, own if kept else (own[0][:0], own[1][:0]), 40)
    hypercolumn.own_weight, hypercolumn.own_bias = own
    model.see(hypercolumn)
    set_classifiers(model, Classifiers(*hypercolumn.own_classifier()))
    with torch.no_grad():
        error = (model(images).logits - logits).abs().max() / logits.std()
    assert (error < 1e-3) == kept


def test_a_pretrained_encoder_beside_the_trained_one():
    """Its stages come first; it stays as it was, its statistics too; a network that is loaded has it as well."""
    model = first_model(small_stream())
    model.keep_pretrained()
    widths = [*model.encoder.out_channels[-3:]] * 2 + [256]
    assert model.column_widths == widths
    images = torch.randn(4, 3, 64, 64)
    before = model.eval().column(images)
    assert [found.shape[1] for found in before] == widths
    model.train()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(1.5)
    model(images)  # in training: statistics of BatchNorm move, but not those that are kept
    after = model.eval().column(images)
    same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert same == [True] * 3 + [False] * 4
    assert not any(parameter.requires_grad for parameter in model.pretrained.parameters())
    x = extend(rows_of(after).detach().double())
    model.see(fit_directions(x.T @ x, widths, classifiers_of(model)[:2], 40))
    other = first_model(small_stream()).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images).logits, model(images).logits)
