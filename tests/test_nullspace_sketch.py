"""Frequent Directions: its bound, its certificate, and what merging and several processes do to them."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from css.nullspace import GradientStatistics, Rule, projector
from css.nullspace.gram import LIGHT, Gram, Sketch

DOUBLE = torch.float64


def decaying(rows, width, seed, dtype=DOUBLE):
    """Rows whose spectrum falls off, as gradients have it."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=DOUBLE))[0]
    scale = torch.logspace(0, -2, width, dtype=DOUBLE)
    return ((torch.randn(rows, width, generator=generator, dtype=DOUBLE) * scale) @ basis.T).to(dtype)


def sketched(*parts, size):
    sketch = Sketch.empty(parts[0].shape[1], size, parts[0])
    for part in parts:
        sketch.update(part)
    return sketch


def assert_bound(sketch, rows):
    """0 <= M - B^T B <= delta I, delta <= (1 + LIGHT) trace(M) / size, and what is missing is known exactly."""
    missing = rows.T @ rows - sketch.rows.T @ sketch.rows
    values = torch.linalg.eigvalsh(missing)
    scale = rows.square().sum().item()
    assert values.min() >= -1e-12 * scale and values.max() <= sketch.delta + 1e-12 * scale
    assert sketch.delta <= (1 + LIGHT) * scale / sketch.size
    assert sketch.missing == pytest.approx(missing.diagonal().sum().item(), rel=1e-9, abs=1e-12 * scale)
    assert sketch.trace() == pytest.approx(scale, rel=1e-12)
    assert len(sketch.rows) <= sketch.size


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(4, 24), st.integers(1, 12), st.integers(0, 10**6))
def test_bound(rows, width, size, seed):
    data = decaying(rows, width, seed)
    assert_bound(sketched(*data.split(7), size=size), data)


def test_few_rows_lose_their_light_directions_only():
    data = decaying(6, 30, 0)
    sketch = sketched(data, size=8)
    assert sketch.delta == sketch.missing == 0
    torch.testing.assert_close(sketch.rows.T @ sketch.rows, data.T @ data)
    light = 1e-3 * LIGHT**0.5 * decaying(1, 30, 1)
    sketch.update(torch.cat([data, light]))
    assert len(sketch.rows) <= 8 and 0 < sketch.delta <= LIGHT * sketch.trace() / 8
    assert_bound(sketch, torch.cat([data, data, light]))
    assert sketched(torch.zeros(40, 30, dtype=DOUBLE), size=8).trace() == 0


def test_a_flat_spectrum_is_not_taken_for_its_sketch():
    """The energy rule counts what the sketch has lost as free: then no direction of it may be given away."""
    data = torch.linalg.qr(torch.randn(400, 40, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]
    sketch = sketched(*data.split(20), size=10)
    values, _ = sketch.eigen()
    assert sketch.missing > 0.5 * sketch.trace()
    lost = {"delta": sketch.delta, "missing": sketch.missing}
    assert Rule("energy", 0.4).protected(values, 40, 1, 1, **lost) == len(values)
    assert Rule("energy", 0.4).protected(values, 40, 1, 1) < len(values)  # the mistake
    rule = Rule("budget", (values[2] + 0.5 * sketch.delta).item())
    assert rule.protected(values, 40, 1, 1, **lost) > rule.protected(values, 40, 1, 1)


def test_a_merged_sketch_keeps_the_bound():
    data = decaying(80, 20, 1)
    first, second = sketched(data[:50], size=8), sketched(data[50:], size=8)
    assert first.delta > 0 and second.delta > 0
    first.merge(second)
    assert_bound(first, data)
    scaled = sketched(data[:50], size=8)
    scaled.merge(second, scale=4.0)
    assert_bound(scaled, torch.cat([data[:50], 2 * data[50:]]))


def test_eigenvectors_through_the_small_matrix():
    data = decaying(30, 20, 2)
    sketch = sketched(data, size=10)
    values, vectors = sketch.eigen()
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(values), dtype=DOUBLE))
    torch.testing.assert_close(vectors * values @ vectors.T, sketch.rows.T @ sketch.rows)


def regression(width=40, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(width, 3, bias=False, dtype=DOUBLE), decaying(60, width, seed), torch.randn(60, 3, dtype=DOUBLE)


def collected(layer, x, y, **how):
    statistics = GradientStatistics(**how)
    batches = zip(x.split(6), y.split(6), strict=True)
    statistics.collect(layer, batches, lambda model, a, b: F.mse_loss(model(a), b), "sample")
    return statistics


def test_certificate_bounds_what_is_left_free():
    """No free direction weighs more than the next eigenvalue of the sketch and its error together."""
    layer, x, y = regression()
    exact, sketch = collected(layer, x, y), collected(layer, x, y, exact_up_to=8, sketch_rows=12)
    matrix = exact.grams["weight"][0].matrix
    assert isinstance(exact.grams["weight"][0], Gram) and sketch.grams["weight"][0].delta > 0
    for rule in (Rule("fraction", 0.1), Rule("energy", 0.2), Rule("relative", 0.1)):
        project = projector(sketch, rule)["weight"]
        free = project(torch.eye(40, dtype=DOUBLE))
        assert torch.linalg.eigvalsh(free @ matrix @ free).max() <= project.bound * (1 + 1e-9)
        assert 0 < project.free < 40
    # The bound is worth something: the direction that was protected first weighs more.
    assert torch.linalg.eigvalsh(matrix).max() > 2 * projector(sketch, Rule("energy", 0.1))["weight"].bound


def test_wide_layers_are_sketched_and_small():
    layer, x, y = regression()
    sketch = collected(layer, x, y, exact_up_to=39, sketch_rows=5)
    assert sketch.bytes <= 2 * 5 * 40 * 8  # while it grows
    assert GradientStatistics.from_tensors(sketch.tensors()).bytes <= 5 * 40 * 8
    assert collected(layer, x, y, exact_up_to=40).bytes == 40 * 40 * 8


class Together:
    """Processes as threads: `sum` waits for all of them."""

    def __init__(self, world):
        self.world, self._barrier, self._given = world, threading.Barrier(world), [None] * world

    def of(self, rank):
        view = object.__new__(type("View", (), {}))
        view.world, view.rank, view.sum = self.world, rank, lambda tensor: self._sum(rank, tensor)
        return view

    def _sum(self, rank, tensor):
        self._given[rank] = tensor
        self._barrier.wait()
        total = sum(self._given)
        self._barrier.wait()
        return total


@pytest.mark.parametrize("how", [{}, {"exact_up_to": 8, "sketch_rows": 10}])
def test_processes_end_with_the_same_sum(how):
    layer, x, y = regression()
    parts = [collected(layer, x[:30], y[:30], **how), collected(layer, x[30:], y[30:], **how)]
    together = Together(2)
    threads = [threading.Thread(target=part.reduce, args=(together.of(rank),)) for rank, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    first, second = (part.tensors() for part in parts)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    whole = collected(layer, x, y)
    matrix = whole.grams["weight"][0].matrix
    (gram,) = parts[0].grams["weight"]
    if how:
        missing = torch.linalg.eigvalsh(matrix - gram.rows.T @ gram.rows)
        assert missing.min() >= -1e-10 and missing.max() <= gram.delta + 1e-10
    else:
        torch.testing.assert_close(gram.matrix, matrix)
    assert parts[0].counts == whole.counts
