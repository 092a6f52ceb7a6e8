"""Starts as many processes as $GPUS says, with torchrun."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

import css
from css.system.group import is_launched
from tasks import InputError

PROGRAM = str(Path(css.__file__).with_name("__main__.py"))  # works in any folder, where -m css may not


def wanted_processes() -> int:
    """$GPUS, "all" for every visible GPU, or 1: others may use the machine, too. 1 inside a group that is started.

    Raises InputError if $GPUS is no such number, or larger than that of the visible GPUs.
    """
    given = os.environ.get("GPUS", "") or "1"
    if is_launched():
        return 1
    if given == "all":
        return max(1, torch.cuda.device_count())
    if not given.isdigit() or given == "0":
        raise InputError(f"GPUS={given} must be the number of processes to start, 1 or more, or all.")
    if 0 < torch.cuda.device_count() < int(given):
        raise InputError(f"GPUS={given}, but only {torch.cuda.device_count()} GPUs are visible; lower it.")
    return int(given)


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Runs `css ARGUMENTS` in this many processes on this machine.

    Returns 0, or the exit code of the first that failed: 2 for wrong input, 1 for anything else.
    """
    from torch.distributed.run import main as torchrun

    if not torch.cuda.is_available():  # one core each would leave the others idle, all cores each would fight
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        torchrun(["--standalone", f"--nproc-per-node={processes}", PROGRAM, *arguments])
    except ChildFailedError as error:
        return 2 if error.get_first_failure()[1].exitcode == 2 else 1
    return 0
