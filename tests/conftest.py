"""What holds for every test: one thread, and no cache outside the test's own folder."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("MKL_CBWR", "COMPATIBLE")  # one result for one product, on every CPU; see docs/reliability.md

import pytest
import torch
from small_voc import QUICK_S2MF, css, picture_side, plain_machine, run_arguments, write_small_voc


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Results are bit-identical only at one number of threads, and cores may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def short_alignment():
    """Alignment takes as many steps for a tiny network as for a large one; here a few will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("css.s2mf.alignment.STEPS", 20)
        patch.setattr("css.s2mf.alignment.POOL", 2000)
        yield


@pytest.fixture(autouse=True, scope="session")
def tiny_pictures():
    """A run draws for as long as it learns a tiny network; see `picture_side`."""
    with picture_side():
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The small data set in VOC's layout, for the tests of one file."""
    folder = tmp_path_factory.mktemp("small")
    with plain_machine(folder / "cache"):
        yield write_small_voc(folder / "voc")


@pytest.fixture(scope="session")
def fused_runs(tmp_path_factory):
    """The folder of two runs of plop+s2mf from one first task: `meta` has all stages, `old` keeps the old model.

    For all who only look at them.
    """
    folder = tmp_path_factory.mktemp("fused")
    with plain_machine(folder / "cache"):
        data = write_small_voc(folder / "voc")
        for name, options in {
            "meta": ["--options.align"],
            "old": ["--options.projector", "all", "--task0", folder / "runs" / "meta"],
        }.items():
            arguments = ["--method", "plop+s2mf", *QUICK_S2MF, *options]
            outcome = css(*run_arguments(data, folder / "runs", name, *arguments, protocol="2-1"))
            assert outcome.code == 0, outcome.err
    return folder / "runs"


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.gets.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the files of `server.folder` on loopback at `server.url`; `server.gets` are the paths asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        server.gets, server.folder = [], folder
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
