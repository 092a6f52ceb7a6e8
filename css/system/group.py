"""Which of several processes this is, as torchrun, the environment or SLURM says it. PyTorch is not imported here."""

import os
import re
from typing import NamedTuple

from tasks.errors import InputError

LOWEST_PORT, PORTS = 15000, 15000  # where the processes of a SLURM step meet: below those that systems give away


class Member(NamedTuple):
    """One process of a group; alone by default."""

    rank: int = 0  # among all
    world: int = 1  # how many there are
    local: int = 0  # among those on this machine


def member() -> Member:
    """From RANK and WORLD_SIZE, which torchrun sets or a user, else from what srun sets; alone without both.

    Raises InputError for values that make no group.
    """
    names = _names()
    rank, world = _number(names[0], 0), _number(names[1], 1)
    if rank >= world:
        raise InputError(f"{names[0]}={rank} must be below {names[1]}={world}; the first process has {names[0]}=0.")
    local = "LOCAL_RANK" if "LOCAL_RANK" in os.environ else names[2]
    return Member(rank, world, _number(local, 0))


def is_launched() -> bool:
    """Whether something has started this process as one of a group, so that it starts no others itself."""
    return bool({"RANK", "LOCAL_RANK"} & os.environ.keys()) or member().world > 1


def set_meeting_point() -> None:
    """Makes sure that MASTER_ADDR and MASTER_PORT are there; in a SLURM step they are its first node and its number.

    Raises InputError where nothing says them.
    """
    if nodes := os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST")):
        step = _number("SLURM_JOB_ID", 0) + _number("SLURM_STEP_ID", 0)
        os.environ.setdefault("MASTER_ADDR", first_node(nodes))
        os.environ.setdefault("MASTER_PORT", str(LOWEST_PORT + step % PORTS))
    if missing := {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise InputError(
            f"{min(missing)} is not set: give every process the address of the first one's machine and a free port "
            "there, or start them with torchrun."
        )


def first_node(nodes: str) -> str:
    """Of SLURM's short form: "gpu[07-09,12],big1" begins with gpu07."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).partition(",")[0]


def _names() -> tuple[str, str, str]:
    """Of the variables that say rank, world and, without LOCAL_RANK, the place on this machine."""
    if {"RANK", "WORLD_SIZE"} & os.environ.keys() or _is_batch_script():
        return "RANK", "WORLD_SIZE", "SLURM_LOCALID"
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in os.environ else "SLURM_NTASKS"
    return "SLURM_PROCID", tasks, "SLURM_LOCALID"


def _is_batch_script() -> bool:
    """A script of sbatch is one process, though it is told how many tasks its job may have: srun starts them."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "") or str(default)
    if not text.isdigit():
        raise InputError(f"{name}={text} must be a number, 0 or more.")
    return int(text)
