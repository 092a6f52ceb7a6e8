"""Names of run folders, seeds, the encoding of text, and the mode of files."""

import os
import stat
import subprocess
import sys

import pytest
import torch

from css.config.settings import RunConfig
from css.run.names import MOST_SEED, require_names
from css.system.tensors import save_tensors
from tasks import InputError


@pytest.mark.parametrize("name", ["a", "a b", "ä", "v1.2", ".hidden", "n" * 200, None])
@pytest.mark.parametrize("seed", [0, MOST_SEED])
def test_names_and_seeds_that_can_be_used(name, seed):
    require_names(RunConfig("voc", "15-1", name=name, seed=seed))


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/a", "../a", "a\\b", "a\nb", "a\0", "a\udcff", " a"])
def test_names_that_are_no_names(name):
    with pytest.raises(InputError, match=r"--name .* cannot name a run folder"):
        require_names(RunConfig("voc", "15-1", name=name))


def test_long_names():
    with pytest.raises(InputError, match=r"201 bytes.*--name"):
        require_names(RunConfig("voc", "15-1", name="n" * 201))
    with pytest.raises(InputError, match="more than 200"):
        require_names(RunConfig("voc", "15-1", method=f"module:{'Method' * 50}"))


@pytest.mark.parametrize("seed", [-1, MOST_SEED + 1, 18446744073709552, 2**70])
def test_seeds_that_cannot_be_used(seed):
    with pytest.raises(InputError, match=f"--seed {seed} must be from 0 to {MOST_SEED}"):
        require_names(RunConfig("voc", "15-1", seed=seed))


def test_the_largest_seed_fits_everywhere():
    """Dreams multiply it by 1000, and again by 1,000,003 for every batch."""
    torch.Generator().manual_seed(1_000_003 * (1000 * MOST_SEED + 999) + 1_000_000)
    with pytest.raises((RuntimeError, OverflowError, ValueError)):
        torch.Generator().manual_seed(1_000_003 * 1000 * 18446744073709552)


def test_text_in_another_locale(tmp_path):
    """In a process whose locale is not UTF-8."""
    (tmp_path / "a.yaml").write_bytes("title: Täfelchen\n".encode())
    code = (
        "import sys, pathlib; from css.config.files import read_yaml; from css.system.files import write_text;"
        "assert open(sys.argv[1]).encoding.lower() not in ('utf-8', 'utf8'), 'the locale is UTF-8';"
        "write_text(pathlib.Path(sys.argv[2]), read_yaml(pathlib.Path(sys.argv[1]))['title'])"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, tmp_path / "a.yaml", tmp_path / "b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b").read_bytes() == "Täfelchen".encode()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_tensors_may_be_read_by_whom_other_files_may(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
        assert os.umask(mask) == mask  # it is left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode
