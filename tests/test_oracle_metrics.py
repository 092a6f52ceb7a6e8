"""Confusion matrix, scores and result tables against the official implementation of PLOP."""

from pathlib import Path

import numpy as np
import pytest
import torch

from css.metrics import ConfusionMatrix, average_over_tasks, group_means

ARCHIVE = np.load(Path(__file__).parent / "oracles" / "metrics.npz", allow_pickle=False)
CASES = pytest.mark.parametrize("case", range(int(ARCHIVE["n_cases"])))
TABLES = range(int(ARCHIVE["n_csv"]))


def evaluated(case, dtype=torch.uint8):
    confusion = ConfusionMatrix(int(ARCHIVE[f"case{case}_n_classes"]))
    for i in range(int(ARCHIVE[f"case{case}_n_batches"])):
        pred, target = (torch.from_numpy(ARCHIVE[f"case{case}_{k}_{i}"]) for k in ("preds", "labels"))
        confusion.update(pred.to(dtype), target.to(dtype))
    return confusion


@CASES
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_matrix(case, dtype):
    assert np.array_equal(evaluated(case, dtype).matrix.numpy(), ARCHIVE[f"case{case}_confusion"])


@CASES
def test_scores_per_class(case):
    confusion = evaluated(case)
    for actual, key in ((confusion.iou(), "class_iou"), (confusion.accuracy(), "class_acc")):
        np.testing.assert_allclose(actual.numpy(), ARCHIVE[f"case{case}_{key}"], rtol=0, atol=1e-12)
    # Negative control: prediction and ground truth exchanged.
    confusion.matrix = confusion.matrix.T
    assert not np.allclose(confusion.accuracy().numpy(), ARCHIVE[f"case{case}_class_acc"], equal_nan=True)


@CASES
def test_summary(case):
    keys = {
        "mean_iou": "mean_iou",
        "mean_accuracy": "mean_acc",
        "overall_accuracy": "overall_acc",
        "frequency_weighted_iou": "freqw_acc",
    }
    expected = {name: ARCHIVE[f"case{case}_{key}"].item() for name, key in keys.items()}
    assert evaluated(case).summary() == pytest.approx(expected, rel=0, abs=1e-12)


def table(i):
    """Per line the IoU cells of the seen classes (X = NaN), and the mean IoU."""
    lines = [line.split(",")[1:] for line in str(ARCHIVE[f"csv{i}_text"]).split()]
    cells = [[float("nan") if c == "X" else float(c) for c in line[:-1] if c != "x"] for line in lines]
    return [torch.tensor(c, dtype=torch.float64) for c in cells], [float(line[-1]) for line in lines]


@pytest.mark.parametrize("i", TABLES)
def test_result_table(i):
    """`all` and `avg` are the published ones; `first` and `last` too, unless the script counts what we leave out."""
    cells, means = table(i)
    num_first = len(cells[0])
    groups = group_means(cells[-1], num_first)
    assert groups["all"] == pytest.approx(ARCHIVE[f"csv{i}_all"].item(), abs=1e-12)
    avg = average_over_tasks([group_means(row, num_first)["all"] for row in cells])
    assert avg == pytest.approx(ARCHIVE[f"csv{i}_avg"].item(), abs=1e-12)
    assert avg == pytest.approx(average_over_tasks(means), abs=1e-12)
    assert [round(100 * v, 2) for v in (groups["all"], avg)] == ARCHIVE[f"csv{i}_printed"][:2].tolist()

    published = {"old": ARCHIVE[f"csv{i}_first"].item(), "new": ARCHIVE[f"csv{i}_last"].item()}
    if len(cells) == 1:  # the script prints 0 for a table without the first task's line
        assert published == {"old": 0, "new": 0}
        assert groups["old"] == groups["all"] and groups["new"] is None
        return
    for name, row in (("old", cells[-1][:num_first]), ("new", cells[-1][num_first:])):
        present = row[~row.isnan()]
        # The script divides by all classes, absent ("X") ones included; ours divides by the present ones.
        assert published[name] == pytest.approx(present.sum().item() / len(row), abs=1e-12)
        assert groups[name] == pytest.approx(present.mean().item(), abs=1e-12)
        assert (groups[name] == pytest.approx(published[name], abs=1e-12)) == (len(present) == len(row))
