"""Runs the cells of a table that are not finished: in this process, or several at the same time."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from css.config.settings import RunConfig
from css.recipe.cells import Cell
from css.run.checks import checked_stream, require_config
from css.run.flow import run
from css.run.folder import task_folder
from css.run.stream import make_source
from css.system.launch import PROGRAM, wanted_processes
from css.system.processes import Processes, die_with_parent
from css.training.optimizer import require_optimizer
from tasks.errors import InputError, sentence

Failures = dict[str, str]  # name of a cell: one sentence
_POLL = 0.5  # seconds


def default_jobs() -> int:
    """As many as there are GPUs; one where $GPUS says how many processes a run has."""
    return 1 if os.environ.get("GPUS") else max(1, torch.cuda.device_count())


def run_cells(cells: Sequence[Cell], finished: set[str], jobs: int, command: Callable[[Cell], list[str]]) -> Failures:
    """Runs every cell that is not finished; one that fails is reported and the others go on.

    `command`: arguments of css that run one cell in a process of its own, which is done where a cell needs several
    processes or several cells run at the same time. Raises InputError, before anything runs, for settings or protocols
    that cannot work, and for missing data unless there are finished cells to be shown.
    """
    todo = [cell for cell in cells if cell.name not in finished]
    if failures := _failing_already(todo, 1 if jobs > 1 else wanted_processes(), bool(finished)):
        return failures
    if jobs == 1 and wanted_processes() == 1:
        return _run_here(todo, cells)
    return Pool(todo, cells, jobs, command).run()


def run_cell(cell: Cell, cells: Sequence[Cell], processes: Processes) -> None:
    """Runs one cell, with the first task of another one of its protocol and seed if there is one."""
    run(dataclasses.replace(cell.config, task0=_shared_first_task(cell, cells)), processes)


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


def _shared_first_task(cell: Cell, cells: Sequence[Cell]) -> Path | None:
    """The run folder among the cells of this protocol and seed whose first task is finished; None for its own."""
    if cell.joint or _has_first_task(cell.config):
        return None
    return next(
        (other.config.folder for other in cells if _related(cell, other) and _has_first_task(other.config)), None
    )


def _related(cell: Cell, other: Cell) -> bool:
    """Do they have the same first task?"""
    first, second = cell.config, other.config
    return not cell.joint and not other.joint and (first.protocol, first.seed) == (second.protocol, second.seed)


def _has_first_task(config: RunConfig) -> bool:
    home = task_folder(config.folder, 0)
    return (home / "result.json").exists() and (home / "model.safetensors").exists()


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
    """Up to `jobs` cells at the same time, each in a process of its own that writes to NAME.log beside its run folder.

    With GPUs, job k has GPU k (modulo their number) to itself.
    """

    def __init__(
        self, todo: Sequence[Cell], cells: Sequence[Cell], jobs: int, command: Callable[[Cell], list[str]]
    ) -> None:
        self.waiting, self.cells, self.jobs, self.command = list(todo), cells, jobs, command
        self.running: dict[int, tuple[Cell, subprocess.Popen]] = {}  # by number of the job
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
                self.running[job] = cell, self._start(job, cell)

    def _ready(self, cell: Cell) -> bool:
        """A cell waits while another one is making their first task."""
        makers = any(_related(cell, other) for other, _ in self.running.values())
        return not makers or _has_first_task(cell.config) or _shared_first_task(cell, self.cells) is not None

    def _start(self, job: int, cell: Cell) -> subprocess.Popen:
        log = _log(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        tqdm.write(f"{cell.name}: started, see {log}", file=sys.stderr)
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, PROGRAM, *self.command(cell)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=os.environ | _environment(job, self.jobs),
                preexec_fn=die_with_parent,  # noqa: PLW1509  # one system call, which takes no lock
            )  # fmt: skip

    def _collect(self) -> int:
        """Takes note of cells that have ended; returns how many."""
        ended = [job for job, (_, process) in self.running.items() if process.poll() is not None]
        for job in ended:
            cell, process = self.running.pop(job)
            if process.returncode:
                self.failures[cell.name] = _complaint(_log(cell), process.returncode)
            tqdm.write(f"{cell.name}: {self.failures.get(cell.name, 'finished')}", file=sys.stderr)
        return len(ended)

    def _end(self) -> None:
        """Nothing goes on when this process is interrupted; the cells can be resumed."""
        processes = [process for _, process in self.running.values()]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _log(cell: Cell) -> Path:
    return cell.config.folder.with_name(f"{cell.name}.log")


def _environment(job: int, jobs: int) -> dict[str, str]:
    """One process with one GPU, or with its share of the cores; a single job has what this process has."""
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
