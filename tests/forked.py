"""Processes that start in no time: forks of a server that has imported the program, each as clean as a new process."""

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from small_voc import picture_side, plain_machine

from css.cli.main import main
from css.system.launch import PROGRAM

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([
    "forked", "css.cli.run", "css.cli.saved", "css.cli.table", "css.run.flow", "css.run.presets",
    "plop_baseline.plop", "plop_baseline.finetune", "torch.distributed.run",
])  # fmt: skip


def fork(function: Callable, *arguments: object) -> BaseProcess:
    """A process that calls the function, started."""
    _serve()
    process = PROCESSES.Process(target=function, args=arguments)
    process.start()
    return process


@functools.cache
def _serve() -> None:
    """Starts the server. Python (3.11) does not hand it sys.path, and it leaves out what it does not find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


class Ended(NamedTuple):
    """Like subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def together(folder: Path, arguments: Sequence[object], processes: int) -> Ended:
    """`css ARGUMENTS` in several processes at once, which find each other by a file, without torchrun."""
    texts = [str(argument) for argument in arguments]
    return run_forks(folder, [(share, folder, rank, processes, texts) for rank in range(processes)])


def share(folder: Path, rank: int, processes: int, arguments: Sequence[str]) -> None:
    """One of the processes that together run the command."""
    with plain_machine(folder / "cache"), picture_side():
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_RANK=str(rank))
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
        raise SystemExit(main(arguments))


def run_forks(folder: Path, calls: Sequence[tuple], timeout: float = 600) -> Ended:
    """Each call (a function and its arguments) in a fork; what they write goes to the same two files in the folder.

    As torchrun does, it ends the others when one has failed, whose exit code is the answer.
    """
    folder.mkdir()
    group = [fork(_redirected, folder, *call) for call in calls]
    try:
        code = _first_failure(group, timeout)
    finally:
        for process in group:
            process.terminate()
            process.join()
    return Ended(code, *((folder / name).read_text() for name in ("stdout", "stderr")))


def _first_failure(group: Sequence[BaseProcess], timeout: float) -> int:
    running = {process.sentinel: process for process in group}
    while running:
        ended = wait(running, timeout)
        if not ended:
            raise TimeoutError(f"{len(running)} processes have not ended after {timeout} s")
        for process in map(running.pop, ended):
            process.join()
            if process.exitcode:
                return process.exitcode
    return 0


class Forked:
    """In place of the subprocess.Popen of a cell of a table, which takes seconds to start."""

    def __init__(self, command: Sequence[str], *, stdout, env: dict[str, str], **_) -> None:
        assert list(command[:2]) == [sys.executable, PROGRAM]
        self._process = fork(_run_program, stdout.name, env, command[2:])

    def poll(self) -> int | None:
        self._process.join(0)
        return self.returncode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


def _run_program(output: str, environment: dict[str, str], arguments: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    _write_to(output, output)
    with picture_side():
        raise SystemExit(main(arguments))


def _redirected(folder: Path, function: Callable, *arguments: object) -> None:
    _write_to(folder / "stdout", folder / "stderr")
    function(*arguments)


def _write_to(*paths: Path | str) -> None:
    for number, path in enumerate(paths, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
