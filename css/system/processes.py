"""The processes of one run: alone, or several on one machine or more (nccl on GPUs, gloo on CPU)."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from css.system.group import Member, member, set_meeting_point
from tasks import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def join(cls) -> "Processes":
        """Joins the group that the environment announces, see `member`; a process of its own without one.

        Raises InputError for an environment that makes no group, or a process without a GPU where others have one.
        """
        me, device = member(), torch.device("cpu")
        if torch.cuda.is_available():
            device = _gpu(me.local, torch.cuda.device_count())
            torch.cuda.set_device(device)
        if me.world > 1 and not dist.is_initialized():
            _meet(me, "nccl" if device.type == "cuda" else "gloo")
        return cls(me.rank, me.world, device)

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and shows progress."""
        return self.rank == 0

    def distributed(self, model: nn.Module) -> nn.Module:
        """The model to call in training: gradients are averaged over the processes."""
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        return DistributedDataParallel(model) if self.world > 1 and trainable else model

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes; exact for integers. The tensor itself with one process."""
        if self.world == 1:
            return tensor
        total = tensor.to(self.device)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def broadcast(self, model: nn.Module) -> None:
        """Gives every process the parameters and running statistics of the first one."""
        if self.world > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def first(self, work: Callable[[], T]) -> T:
        """Runs `work` in the first process while the others wait; every process gets its result or its InputError."""
        if self.world == 1:
            return work()
        outcome: list = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except InputError as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise InputError(outcome[1])
        return outcome[0]

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


def _gpu(local: int, visible: int) -> torch.device:
    """Of a process by its place on this machine; the only one where each is shown its own, as SLURM can do."""
    if visible > 1 and local >= visible:
        raise InputError(f"Process {local} of this machine has no GPU: {visible} are visible; start fewer processes.")
    return torch.device("cuda", local if visible > 1 else 0)


def _meet(me: Member, backend: str) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's; whoever else started this may go away before it ends
        die_with_parent()
    set_meeting_point()
    dist.init_process_group(backend, rank=me.rank, world_size=me.world)


def die_with_parent() -> None:
    """If torchrun is killed, its processes must not go on writing into a run that is started again meanwhile."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
