"""Cells of a table as jobs of submitit: on this machine, or in the queue of SLURM."""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from css.recipe.cells import Cell
from css.recipe.jobs import environment_of, log_of
from css.run.folder import is_complete
from css.system.launch import PROGRAM
from tasks.errors import InputError

Kind = Literal["local", "slurm"]
_BETWEEN = 30.0  # seconds between two questions to the queue
_NO_LIMIT = 60 * 24 * 365  # minutes; submitit's own would be two


class Submitted:
    """A job, used as a `subprocess.Popen`.

    It has failed if its cell is not finished when it ends: submitit pickles what it knows, and no pickle is read here.
    """

    def __init__(self, job: Any, cell: Cell) -> None:
        self._job, self._folder = job, cell.config.folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """0 or 1 when the job has ended, None before."""
        if self.returncode is None and self._ended():
            self.returncode = 0 if is_complete(self._folder) else 1
        return self.returncode

    def terminate(self) -> None:
        """Ends it, or takes it out of the queue."""
        if self.poll() is None:
            self._job.cancel()

    kill = terminate

    def wait(self, timeout: float | None = None) -> None:
        """Until it has ended. Raises subprocess.TimeoutExpired if it has not after so many seconds."""
        end = time.monotonic() + (timeout or 0)
        while self.poll() is None:
            if timeout is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("job", timeout)
            time.sleep(0.1)

    def _ended(self) -> bool:
        return self._job.done()


class Queued(Submitted):
    """A job of SLURM. Its queue is asked; submitit asks the accounting, which not every cluster has."""

    _next = 0.0  # time of the next question

    def _ended(self) -> bool:
        if self._job.paths.result_pickle.exists():
            return True
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _BETWEEN
        return _is_gone(self._job.job_id)


class Queue:
    """Takes cells as a `Pool` starts them: `local` runs them at once, `slurm` gives them to sbatch.

    Args:
        kind: Which of the two.
        folder: Of submitit's own scripts and messages.
        options: Of sbatch, KEY=VALUE with its own names: "partition=gpu", "time=12:00:00".
        command: Arguments of css that run one cell.
        jobs: Cells that run at the same time.

    Raises:
        InputError: submitit is not installed, an option is no KEY=VALUE, or there is no SLURM.
    """

    def __init__(
        self, kind: Kind, folder: Path, options: Sequence[str], command: Callable[[Cell], list[str]], jobs: int
    ) -> None:
        _require_submitit()
        self.kind, self.folder, self.command, self.jobs = kind, folder, command, jobs
        self.options = _parsed(options)

    def start(self, job: int, cell: Cell) -> Submitted:
        """Submits a cell; `job` is its place among those that run at the same time."""
        log_of(cell).unlink(missing_ok=True)
        line = f"exec {self._line(job, cell)} >>{shlex.quote(str(log_of(cell)))} 2>&1"
        submitted = Submitted if self.kind == "local" else Queued
        return submitted(self._executor(cell).submit(subprocess.call, ["sh", "-c", line]), cell)

    def script(self, cell: Cell) -> str:
        """What sbatch would get for a cell, and what runs in it."""
        slurm = importlib.import_module("submitit.slurm.slurm")
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(self.folder))}"
        text = slurm._make_sbatch_string(command=command, folder=self.folder, **self._parameters(cell))
        return f"{text}\n# which runs\n# {self._line(0, cell)}"

    def require(self) -> None:
        """Raises InputError if nothing can be submitted from here."""
        if self.kind == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise InputError(
                "--executor slurm needs sbatch and srun: call it on a machine of the cluster, or add --print to see "
                "the script."
            )

    def _line(self, job: int, cell: Cell) -> str:
        """A shell's. A job of SLURM has what the queue gives it; here it has its share of the machine."""
        own = _environment(job, self.jobs) if self.kind == "local" else []
        return shlex.join([*own, sys.executable, PROGRAM, *self.command(cell)])

    def _executor(self, cell: Cell) -> Any:
        submitit = importlib.import_module("submitit")
        if self.kind == "local":
            executor = submitit.LocalExecutor(self.folder)
            executor.update_parameters(timeout_min=_NO_LIMIT)
        else:
            executor = submitit.SlurmExecutor(self.folder)
            executor.update_parameters(**self._parameters(cell))
        return executor

    def _parameters(self, cell: Cell) -> Mapping[str, Any]:
        own = {"job_name": cell.name, "time": None, "wckey": None, "stderr_to_stdout": True}
        return {**own, "additional_parameters": self.options}


def _is_gone(job_id: str) -> bool:
    """Whether a job is not in the queue any more; not where that does not answer."""
    command = ["squeue", "--noheader", "--jobs", job_id]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return not answer.stdout.strip() and (answer.returncode == 0 or "Invalid job id" in answer.stderr)


def _environment(job: int, jobs: int) -> list[str]:
    """A command that sets it; submitit hides GPUs from jobs of this machine, which are shown again."""
    name = "CUDA_VISIBLE_DEVICES"
    shown = {name: os.environ[name]} if name in os.environ else {}
    own = [f"{key}={value}" for key, value in {**shown, **environment_of(job, jobs)}.items()]
    return ["env", *([] if shown else ["-u", name]), *own]


def _require_submitit() -> None:
    try:
        importlib.import_module("submitit")
    except ImportError:
        raise InputError(
            "--executor needs submitit: pip install 'continual-segmentation[cluster]', or leave it out and give --jobs."
        ) from None


def _parsed(options: Sequence[str]) -> dict[str, str]:
    """By the names that submitit gives to options: "gpus-per-node=1" is {"gpus_per_node": "1"}."""
    pairs = [option.partition("=") for option in options]
    if wrong := [option for option, (key, _, value) in zip(options, pairs, strict=True) if not (key and value)]:
        raise InputError(f"--slurm {wrong[0]} must be KEY=VALUE of sbatch, for example partition=gpu time=12:00:00.")
    return {key.replace("-", "_"): value for key, _, value in pairs}
