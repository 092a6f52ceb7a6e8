"""Breaks runs on purpose: random kills, full disks, clocks that jump, two processes in one folder, a read-only folder.

Not collected by default: python -m pytest tests/chaos.py -m slow -s. The number of kills and the seed are $CHAOS_KILLS
(100) and $CHAOS_SEED (0); docs/reliability.md says what was found. The bad inputs are in tests/chaos_inputs.py.
"""

import collections
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_voc import QUICK_S2MF, css, plain_machine, run_arguments, write_small_voc
from test_resume import assert_same

from css.s2mf import alignment

pytestmark = pytest.mark.slow
KILLS, SEED = int(os.environ.get("CHAOS_KILLS", "100")), int(os.environ.get("CHAOS_SEED", "0"))
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["chaos", "plop_baseline.plop", "css.s2mf.algorithm", "css.report.pictures"])
ROOT = Path(__file__).parents[1]

METHODS = {
    "finetune": (), "plop": (), "mib": (), "ilt": (), "lwf-mc": (), "ewc": (), "mas": (), "frozen": (), "joint": (),
    "plop+replay": (), "plop+align": (), "frozen+align": (), "a-gem": (), "mib+s2mf": QUICK_S2MF,
}  # fmt: skip
LONGEST = 300  # seconds of a life


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with plain_machine(folder):
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_voc(tmp_path_factory.mktemp("data") / "voc")


def command(data: Path, run: Path, method: str) -> list[str]:
    options = ("--method", method, "--train.epochs", 2, *METHODS[method])
    return run_arguments(data, run.parent, run.name, *options, protocol="2-1")


def live(arguments: list[str], cache: Path, errors: Path) -> None:
    """A process that runs the command and leaves what it said on stderr."""
    alignment.STEPS, alignment.POOL = 20, 2000  # as conftest.py has them
    try:
        with plain_machine(cache):
            outcome = css(*arguments)
    except BaseException:
        errors.write_text(traceback.format_exc())
        raise
    errors.write_text(outcome.err)
    raise SystemExit(outcome.code)


class Life:
    """A run in a process of its own."""

    def __init__(self, arguments: list[str], cache: Path, errors: Path):
        self.process = PROCESSES.Process(target=live, args=(arguments, cache, errors))
        self.errors, self.began = errors, time.monotonic()
        self.process.start()

    def end(self) -> int:
        self.process.join(LONGEST)
        assert self.process.exitcode is not None, "a life did not end"
        return self.process.exitcode

    def killed_after(self, seconds: float) -> int:
        self.process.join(seconds)
        self.process.kill()
        return self.end()

    @property
    def complaint(self) -> str:
        return self.errors.read_text().strip().splitlines()[-1]


class References:
    """Runs in one piece, made once for each method, and how long they took."""

    def __init__(self, data: Path, cache: Path, folder: Path):
        self.data, self.cache, self.folder, self.seconds = data, cache, folder, {}

    def __getitem__(self, method: str) -> Path:
        run = self.folder / method.replace("+", "-")
        if method not in self.seconds:
            life = Life(command(self.data, run, method), self.cache, self.folder / "errors")
            code = life.end()
            assert code == 0, life.errors.read_text()
            self.seconds[method] = time.monotonic() - life.began
        return run


@pytest.fixture(scope="module")
def references(data, cache, tmp_path_factory):
    return References(data, cache, tmp_path_factory.mktemp("references"))


def test_random_kills(data, cache, references, tmp_path):
    """Each run is killed at random moments, up to six times, and then left to end."""
    drawn, kills, runs, different = random.Random(SEED), 0, collections.Counter(), []
    where = collections.Counter()
    while kills < KILLS:
        method = drawn.choice(list(METHODS))
        reference, run = references[method], tmp_path / f"{sum(runs.values())}"
        for _ in range(6):
            life = Life(command(data, run, method), cache, tmp_path / "errors")
            code = life.killed_after(drawn.random() * references.seconds[method])
            assert code in (0, -signal.SIGKILL), life.errors.read_text()
            if code == 0:
                break
            kills += 1
            where[_moment(run)] += 1
        assert Life(command(data, run, method), cache, tmp_path / "errors").end() == 0
        runs[method] += 1
        try:
            assert_same(run, reference)
        except AssertionError as error:
            different.append((method, run, str(error)[:500]))
        print(f"{kills} kills in {sum(runs.values())} runs, {len(different)} of them different", flush=True)
    print(f"killed: {dict(where)}\nruns: {dict(runs)}")
    assert different == []


def _moment(run: Path) -> str:
    """What a killed run had done."""
    if not (run / "config.yaml").exists():
        return "nothing written"
    if (run / "results.json").exists() and (run / "task_1").exists():
        return "after the last task"
    if any(run.glob("**/.*.partial")):
        return "while a file was written"
    unfinished = "task 1" if (run / "task_0").exists() else "task 0"
    return f"in {unfinished}, {'some stage' if any(run.glob('task_*.work/*')) else 'nothing'} stored"


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A file system of this size; only the administrator can make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.mark.parametrize("number", range(20))
def test_full_disk(number, data, cache, references, tmp_path):
    """It is full somewhere between the first byte and the last; with more room the same command goes on."""
    drawn = random.Random(1000 * SEED + number)
    method = drawn.choice(["finetune", "plop", "ewc", "mib"])
    reference = references[method]
    needed = sum(path.stat().st_size for path in reference.rglob("*") if path.is_file()) // 1024
    with small_disk(tmp_path / "disk", f"{drawn.randrange(8, needed)}k"):
        run = tmp_path / "disk" / "run"
        life = Life(command(data, run, method), cache, tmp_path / "errors")
        assert life.end() == 2, life.errors.read_text()
        assert "Traceback" not in life.errors.read_text()
        assert life.complaint.startswith("css: Cannot write ") and "No space left on device" in life.complaint
        assert not any(tmp_path.glob("disk/run/**/.*.partial"))
        remount(tmp_path / "disk", "size=200m")
        life = Life(command(data, run, method), cache, tmp_path / "errors")
        assert life.end() == 0, life.errors.read_text()
        assert_same(run, reference)


def test_read_only_disk(data, cache, references, tmp_path):
    with small_disk(tmp_path / "disk", "100m"):
        run = tmp_path / "disk" / "run"
        life = Life(command(data, run, "plop"), cache, tmp_path / "errors")
        assert life.killed_after(0.7 * references.seconds.get("plop", 5)) in (0, -signal.SIGKILL)
        (run / "results.json").unlink(missing_ok=True)
        before = sorted(run.rglob("*"))
        remount(tmp_path / "disk", "ro")
        life = Life(command(data, run, "plop"), cache, tmp_path / "errors")
        assert life.end() == 2
        assert life.complaint.startswith("css: ") and "Read-only file system" in life.complaint
        assert "Traceback" not in life.errors.read_text() and sorted(run.rglob("*")) == before
        remount(tmp_path / "disk", "rw")
        assert Life(command(data, run, "plop"), cache, tmp_path / "errors").end() == 0
        assert_same(run, references["plop"])


@pytest.mark.parametrize("number", range(5))
def test_two_processes_in_one_folder(number, data, cache, references, tmp_path):
    """One of them learns; the other says that the folder is in use, or finds the finished run."""
    drawn, run = random.Random(SEED + number), tmp_path / "run"
    reference = references["plop"]
    first = Life(command(data, run, "plop"), cache, tmp_path / "first")
    time.sleep(drawn.random() * references.seconds["plop"] * 0.6)
    second = Life(command(data, run, "plop"), cache, tmp_path / "second")
    codes = {life: life.end() for life in (first, second)}
    assert sorted(codes.values()) in ([0, 0], [0, 2])
    for life, code in codes.items():
        assert "Traceback" not in life.errors.read_text()
        assert code == 0 or "is in use" in life.complaint
    assert_same(run, reference)


def test_clock_that_jumps(data, references, tmp_path, monkeypatch):
    """By years, forwards and backwards, between any two looks at it; files have times in the future, too."""
    drawn, moment = random.Random(SEED), time.time
    monkeypatch.setattr(time, "time", lambda: moment() + drawn.uniform(-1e8, 1e8))
    monkeypatch.setattr(alignment, "STEPS", 20)
    for method in ("plop", "frozen+align"):
        reference = references[method]
        for path in data.rglob("*.*"):
            later = moment() + drawn.uniform(-1e8, 1e8)
            os.utime(path, (later, later))
        outcome = css(*command(data, tmp_path / method, method))
        assert outcome.code == 0, outcome.err
        assert_same(tmp_path / method, reference)
        assert css("report", tmp_path / method).code == 0


@pytest.mark.parametrize("number", range(2))
def test_one_of_two_processes_is_killed(number, data, tmp_path):
    """The other one ends, too; the same command goes on and ends like a run of two processes that was never killed."""
    drawn = random.Random(SEED + number)
    environment = {**os.environ, "GPUS": "2", "PYTHONPATH": str(ROOT)}

    def start(run: Path) -> subprocess.Popen:
        arguments = [sys.executable, "-m", "css", *command(data, run, "plop"), "--train.epochs", "6"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(arguments, env=environment, **quiet)

    whole = start(tmp_path / "whole")
    assert whole.wait(LONGEST) == 0, whole.stderr.read()
    run = tmp_path / "run"
    process = start(run)
    while not any(run.glob("task_*.work/*")):  # it has begun to learn
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(drawn.random() * 2)
    workers = _children(process.pid)
    assert len(workers) == 2
    os.kill(workers[number], signal.SIGKILL)
    assert process.wait(LONGEST) != 0
    again = start(run)
    assert again.wait(LONGEST) == 0, again.stderr.read()
    assert_same(run, tmp_path / "whole")


def _children(parent: int) -> list[int]:
    """The processes below torchrun, which may be the process itself or its child."""
    direct = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return _children(direct[0]) if len(direct) == 1 else direct


def test_a_run_that_went_another_way_is_noticed(data, references, tmp_path):
    """The negative control of all comparisons above: one bit of one weight."""
    run = shutil.copytree(references["finetune"], tmp_path / "run")
    assert_same(run, references["finetune"])
    path = run / "task_1" / "model.safetensors"
    tensors = load_file(path)
    weight = next(tensor for name, tensor in tensors.items() if name.endswith("weight"))
    weight.view(torch.int32).flatten()[0] ^= 1
    save_file(tensors, path)
    with pytest.raises(AssertionError):
        assert_same(run, references["finetune"])
