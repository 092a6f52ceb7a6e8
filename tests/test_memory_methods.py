"""GEM and A-GEM: the projections against hand-made cases and an independent solver, the memory of images."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import torch

from css.kinds.classification import Classification
from css.system.processes import Processes
from plop_baseline import a_gem, gem
from plop_baseline.memory import EpisodicMemory
from tasks import Stream, split_evenly
from tasks.datasets.single_shapes import SingleShapes


def test_a_gem_by_hand():
    gradient, reference = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])
    assert torch.equal(a_gem.turned_away(gradient, reference), torch.tensor([1.0, 0.0]))
    against = torch.tensor([1.0, 2.0])  # points the same way: nothing changes
    assert a_gem.turned_away(against, reference) is against
    assert a_gem.turned_away(torch.tensor([1.0, 0.0]), reference)[1] == 0  # orthogonal


def test_a_gem_is_the_nearest_vector_that_does_not_point_against():
    torch.manual_seed(0)
    gradient, reference = torch.randn(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    if gradient @ reference > 0:
        reference = -reference
    found = a_gem.turned_away(gradient, reference)
    assert abs(found @ reference) < 1e-12
    for _ in range(50):  # no other feasible vector is nearer
        other = found + 0.1 * torch.randn(20, dtype=torch.float64)
        if other @ reference >= 0:
            assert (other - gradient).norm() >= (found - gradient).norm()


def test_gem_by_hand():
    """Against two axes: both coordinates that point against them are taken off, up to the ridge."""
    references = torch.eye(2, 3, dtype=torch.float64)
    found = gem.project(torch.tensor([-1.0, -2.0, 5.0], dtype=torch.float64), references)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64), atol=5e-3, rtol=0)
    fine = torch.tensor([1.0, 0.0, -7.0], dtype=torch.float64)
    assert gem.project(fine, references, margin=0.5) is fine
    # where one alone is hurt, the other one's multiplier is the margin
    found = gem.project(torch.tensor([-1.0, 2.0, 5.0], dtype=torch.float64), references, margin=0.5)
    torch.testing.assert_close(found, torch.tensor([0.0, 2.5, 5.0], dtype=torch.float64), atol=5e-3, rtol=0)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_gem_against_an_independent_solver_and_its_optimality_conditions(seed, margin):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 6))
    gram, products = rows @ rows.T, rng.normal(size=4)
    matrix = gram + gem.RIDGE * np.eye(4)
    found = gem.solve(gram, products, margin)
    other = scipy.optimize.minimize(
        lambda v: 0.5 * v @ matrix @ v + v @ products, np.full(4, margin + 1.0), jac=lambda v: matrix @ v + products,
        bounds=[(margin, None)] * 4, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    np.testing.assert_allclose(found, other.x, atol=1e-4)
    slope = matrix @ found + products  # of the Lagrangian: 0 inside, not negative at the bound
    assert (found >= margin - 1e-12).all() and (slope > -1e-8).all()
    np.testing.assert_allclose(slope * (found - margin), 0, atol=1e-8)


def test_gem_keeps_the_promise_where_plain_descent_does_not():
    torch.manual_seed(1)
    references, gradient = torch.randn(3, 50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    gradient -= references.sum(0)  # against all of them
    assert (references @ gradient < 0).any()
    assert (references @ gem.project(gradient, references) > -0.1).all()


@pytest.fixture(scope="module")
def stream():
    source = SingleShapes(size=32, train_images=80, test_images=20)
    return Stream.cut(source, "2-split", ["1", "2", "3", "4"], split=split_evenly)


def trainer():
    config = SimpleNamespace(train=SimpleNamespace(crop=32), seed=3)
    return SimpleNamespace(kind=Classification(), config=config, processes=Processes())


def test_memory_gives_images_of_its_task_with_their_channels(stream):
    memory = EpisodicMemory()
    memory.add(stream.task(0), 5, seed=3)
    assert len(memory.indices[0]) == 5 and set(memory.indices[0].tolist()) <= set(stream.task(0).train_indices.tolist())
    torch.manual_seed(0)
    pixels, labels = memory.draw(stream.task(1), 0, 30, trainer())
    assert pixels.shape == (30, 3, 32, 32) and pixels.dtype == torch.uint8
    assert set(labels.flatten().tolist()) <= {0, 1}  # channels of the first task, seen from the second
    back = EpisodicMemory.from_tensors(memory.tensors())
    torch.manual_seed(0)
    again, _ = back.draw(stream.task(1), None, 30, trainer())
    assert torch.equal(again, pixels)


def test_memory_larger_than_a_task_keeps_all_of_it(stream):
    memory = EpisodicMemory()
    memory.add(stream.task(0), 1000, seed=0)
    assert sorted(memory.indices[0].tolist()) == sorted(stream.task(0).train_indices.tolist())
