"""What holds for every test: one thread, and no cache outside the test's own folder."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Results are bit-identical only at one number of threads, and cores may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
