"""Tasks without background, without old pixels, with void alone: the published codes of some rivals divide 0 by 0."""

import numpy as np
import pytest
import torch
from small_voc import IMAGES, LISTS, MASKS, css, read_results, run_arguments, write_pair

from css.system.tensors import load_tensors
from tasks.source import VOID

METHODS = {
    "star": [],
    "star+align": [],
    "dkd": [],
    "barm": [],
    "ssul": [],
    "analytic": ["--options.features", "64"],
    "lgkd": [],
    "mib+lgkd": [],
    "plop+ewf": [],
    "frozen+align": [],
}


def mask_of(task, index):
    """Class 1 beside background; then class 2 everywhere; then one pixel of class 3 among void."""
    mask = np.zeros((80, 70), np.uint8)
    if task == 0:
        mask[10 + index : 60, 20:50] = 1
    elif task == 1:
        mask[:] = 2
    else:
        mask[:] = VOID
        mask[index, index] = 3
    return mask


@pytest.fixture(scope="module")
def scarce(tmp_path_factory):
    """Eight images a task in which a batch may hold nothing of a kind; whole masks, so no old pixel either."""
    root, drawn = tmp_path_factory.mktemp("scarce"), np.random.default_rng(0)
    for folder in (IMAGES, MASKS, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in (("train", 8), ("test", 2)):
        names = []
        for task in range(3):
            for index in range(count):
                names.append(f"{split}_{task}_{index}")
                noise = drawn.integers(60, size=(80, 70, 3)) + 60 * task
                write_pair(root, names[-1], noise.astype(np.uint8), mask_of(task, index))
        (root / LISTS[split]).write_text("\n".join(names) + "\n")
    return root


@pytest.fixture(scope="module")
def first(scarce, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    outcome = css(*run_arguments(scarce, folder, "first", "--method", "finetune"))
    assert outcome.code == 0, outcome.err
    return folder / "first"


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_and_every_tensor_is_a_number(name, scarce, first, tmp_path):
    arguments = ["--method", name, *METHODS[name], "--task0", first]
    outcome = css(*run_arguments(scarce, tmp_path, "run", *arguments))
    assert outcome.code == 0, outcome.err
    assert read_results(tmp_path / "run")["complete"]
    for task in range(3):
        tensors, _ = load_tensors(tmp_path / "run" / f"task_{task}" / "model.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
