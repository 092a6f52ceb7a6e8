"""Local POD against numbers made with the official implementation of PLOP."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plop_baseline.pod import local_pod, pod_loss

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "plop_local_pod.npz", allow_pickle=False)
CASES = range(int(ARCHIVE["n_cases"]))
LAYERS = range(int(ARCHIVE["n_layers"]))
SCALES = tuple(ARCHIVE["scales"].tolist())
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def maps(case, side, dtype=torch.float64):
    return [torch.from_numpy(ARCHIVE[f"case{case}_{side}_{i}"]).to(dtype) for i in LAYERS]


def loss_arguments(case):
    value = {k: ARCHIVE[f"case{case}_{k}"].item() for k in ("nb_current_classes", "nb_new_classes")}
    factors = {k: ARCHIVE[f"case{case}_{k}"].item() for k in ("logits_factor",)}
    pod_factor = ARCHIVE[f"case{case}_pod_factor"].item()
    return {"num_seen": value["nb_current_classes"], "num_new": value["nb_new_classes"], "factor": pod_factor} | factors


def relative_error(actual, expected):
    expected = torch.from_numpy(np.asarray(expected))
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def stored(case, name):
    """(layer, array) of the layers for which the archive holds the array."""
    keys = ((i, f"case{case}_{name}_{i}") for i in LAYERS)
    return [(i, ARCHIVE[key]) for i, key in keys if key in ARCHIVE.files]


@dtypes
@pytest.mark.parametrize("case", CASES)
def test_embedding(case, dtype):
    old = maps(case, "old", dtype)
    embeddings = stored(case, "embedding_old")
    assert embeddings
    for i, expected in embeddings:
        actual = local_pod(old[i].square(), SCALES)
        assert actual.dtype == dtype
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < TOLERANCE[dtype]
        assert relative_error(local_pod(old[i], SCALES), expected) > 0.1  # not squared


@dtypes
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(case, dtype):
    old, new = maps(case, "old", dtype), maps(case, "new", dtype)
    for x in new:
        x.requires_grad_()
    loss = pod_loss(old, new, **loss_arguments(case))
    loss.backward()
    assert relative_error(loss.detach(), ARCHIVE[f"case{case}_total_loss"]) < TOLERANCE[dtype]
    gradients = stored(case, "grad_new")
    assert gradients
    for i, expected in gradients:
        assert relative_error(new[i].grad, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("case", CASES)
def test_loss_of_each_layer(case):
    """With all other pairs equal, one layer is left; the logits stay last because they are collapsed."""
    old, new = maps(case, "old"), maps(case, "new")
    same_logits = torch.cat([old[-1], torch.zeros_like(new[-1][:, old[-1].shape[1] :])], dim=1)
    for i in LAYERS:
        single = [*old[:-1], same_logits]
        single[i] = new[i]
        loss = pod_loss(old, single, **loss_arguments(case))
        assert relative_error(loss, ARCHIVE[f"case{case}_layer_losses"][i]) < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_plausible_mistakes_fail(case):
    """Collapsing after squaring, cutting the new classes off, one factor for all maps, old classes in the ratio."""
    old, new, arguments = maps(case, "old"), maps(case, "new"), loss_arguments(case)
    expected = ARCHIVE[f"case{case}_total_loss"]
    num_old = old[-1].shape[1]
    squares = new[-1].square()
    late = torch.cat([squares[:, :1] + squares[:, num_old:].sum(1, keepdim=True), squares[:, 1:num_old]], 1).sqrt()
    for wrong_logits in (late, new[-1][:, :num_old]):
        assert relative_error(pod_loss(old, [*new[:-1], wrong_logits], **arguments), expected) > 1e-6
    for wrong in ({"logits_factor": arguments["factor"]}, {"num_seen": num_old}):
        assert relative_error(pod_loss(old, new, **(arguments | wrong)), expected) > 1e-6
