"""Runs the cells of a table that are not finished: in this process, or several at the same time."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from css.recipe.cells import Cell
from css.recipe.tidy import first_task_of, knows_first_task, related, tidy
from css.run.checks import checked_stream, require_config
from css.run.flow import run
from css.run.stream import make_source
from css.system.launch import PROGRAM, wanted_processes
from css.system.processes import Processes, die_with_parent
from css.training.optimizer import require_optimizer
from tasks.errors import InputError, sentence

Failures = dict[str, str]  # name of a cell: one sentence
_POLL = 0.5  # seconds


class Started(Protocol):
    """What runs a cell: a `subprocess.Popen`, or a job in a queue."""

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code if it has ended."""

    def terminate(self) -> None:
        """Asks it to end; the cell can be resumed."""

    def wait(self, timeout: float | None = None) -> object:
        """Until it has ended. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """Ends it."""


Start = Callable[[int, Cell], Started]  # starts a cell, the job of this number among those that run at the same time


def run_cells(cells: Sequence[Cell], finished: set[str], jobs: int, start: Start, here: bool) -> Failures:
    """Runs every cell that is not finished, `jobs` at the same time; one that fails is reported and the others go on.

    `here`: in this process, without `start`. Raises InputError, before anything runs, for settings or protocols that
    cannot work, and for missing data unless there are finished cells to be shown.
    """
    todo = [cell for cell in cells if cell.name not in finished]
    if failures := _failing_already(todo, 1 if jobs > 1 else wanted_processes(), bool(finished)):
        return failures
    return _run_here(todo, cells) if here else Pool(todo, cells, jobs, start).run()


def run_cell(cell: Cell, cells: Sequence[Cell], processes: Processes) -> None:
    """Runs one cell, with the first task of another one of its protocol and seed if there is one.

    Its models stay until it ends, see `tidy`.
    """
    shared = None if knows_first_task(cell.config) else first_task_of(cell, cells)
    run(dataclasses.replace(cell.config, task0=shared, keep="all"), processes)
    processes.first(lambda: tidy([other for other in cells if other is cell or related(cell, other)]))


def _failing_already(todo: Sequence[Cell], world: int, some_finished: bool) -> Failures:
    for cell in todo:
        require_config(cell.config, world)
        require_optimizer(cell.config.train)
    try:
        for cell in todo[:1]:
            make_source(cell.config)
    except InputError as error:
        if not some_finished:
            raise
        return {cell.name: str(error) for cell in todo}
    for cell in {cell.config.protocol: cell for cell in todo}.values():
        checked_stream(cell.config, world)
    return {}


def _run_here(todo: Sequence[Cell], cells: Sequence[Cell]) -> Failures:
    failures: Failures = {}
    for number, cell in enumerate(todo, 1):
        print(f"\n[{number}/{len(todo)}] {cell.name}", file=sys.stderr, flush=True)
        try:
            run_cell(cell, cells, Processes.join())
        except Exception as error:  # whatever it is, the other cells go on
            if not isinstance(error, InputError):
                traceback.print_exc()
            failures[cell.name] = sentence(error)
    return failures


class Pool:
    """Up to `jobs` cells at the same time, each of which writes to NAME.log beside its run folder."""

    def __init__(self, todo: Sequence[Cell], cells: Sequence[Cell], jobs: int, start: Start) -> None:
        self.waiting, self.cells, self.jobs, self.start = list(todo), cells, jobs, start
        self.running: dict[int, tuple[Cell, Started]] = {}  # by number of the job
        self.failures: Failures = {}

    def run(self) -> Failures:
        """Runs all cells; returns the ones that failed."""
        try:
            with tqdm(total=len(self.waiting), unit="cell", disable=None) as bar:
                while self.waiting or self.running:
                    self._start_what_can()
                    time.sleep(_POLL)
                    if ended := self._collect():
                        bar.update(ended)
        finally:
            self._end()
        return self.failures

    def _start_what_can(self) -> None:
        for job in sorted(set(range(self.jobs)) - self.running.keys()):
            cell = next(filter(self._ready, self.waiting), None)
            if cell:
                self.waiting.remove(cell)
                log_of(cell).parent.mkdir(parents=True, exist_ok=True)
                tqdm.write(f"{cell.name}: started, see {log_of(cell)}", file=sys.stderr)
                self.running[job] = cell, self.start(job, cell)

    def _ready(self, cell: Cell) -> bool:
        """A cell waits while another one is making their first task."""
        makers = any(related(cell, other) for other, _ in self.running.values())
        return not makers or knows_first_task(cell.config) or first_task_of(cell, self.cells) is not None

    def _collect(self) -> int:
        """Takes note of cells that have ended; returns how many."""
        ended = [job for job, (_, process) in self.running.items() if process.poll() is not None]
        for job in ended:
            cell, process = self.running.pop(job)
            if process.returncode:
                self.failures[cell.name] = _complaint(log_of(cell), process.returncode)
            tqdm.write(f"{cell.name}: {self.failures.get(cell.name, 'finished')}", file=sys.stderr)
        return len(ended)

    def _end(self) -> None:
        """Nothing goes on when this process is interrupted; the cells can be resumed."""
        processes = [process for _, process in self.running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def in_a_process(jobs: int, command: Callable[[Cell], list[str]]) -> Start:
    """Starts cells as processes of this machine. `command`: arguments of css that run one cell."""

    def start(job: int, cell: Cell) -> Started:
        with log_of(cell).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, PROGRAM, *command(cell)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=os.environ | environment_of(job, jobs),
                preexec_fn=die_with_parent,  # noqa: PLW1509  # one system call, which takes no lock
            )  # fmt: skip

    return start


def log_of(cell: Cell) -> Path:
    """What a cell says that does not run in this process."""
    return cell.config.folder.with_name(f"{cell.name}.log")


def environment_of(job: int, jobs: int) -> dict[str, str]:
    """Of one of several jobs: one process with GPU `job` (modulo their number), or its share of the cores.

    A single job has what this process has.
    """
    if jobs == 1:
        return {}
    gpus = torch.cuda.device_count()
    if not gpus:
        share = str(max(1, (os.cpu_count() or 1) // jobs))
        return {"GPUS": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(index) for index in range(gpus)]
    return {"GPUS": "1", "CUDA_VISIBLE_DEVICES": visible[job % gpus]}


def _complaint(log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    ours = [line.removeprefix("css: ") for line in lines if line.startswith("css: ")]
    return (ours or [sentence("\n".join(lines))])[-1] + ("" if ours else f" (exit code {code}, see {log})")
