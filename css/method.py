"""The contract of a method, and the list of those that come with the toolkit."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from css.losses import cross_entropy
from css.model import Segmenter
from tasks import InputError, Task

if TYPE_CHECKING:
    from css.config import RunConfig
    from css.trainer import Losses, Trainer

METHODS = {
    "finetune": "plop_baseline.finetune:Finetune",
    "joint": "plop_baseline.joint:Joint",
    "plop": "plop_baseline.plop:Plop",
    "mib": "plop_baseline.mib:Mib",
    "ilt": "plop_baseline.ilt:Ilt",
    "lwf": "plop_baseline.lwf:Lwf",
    "lwf-mc": "plop_baseline.lwf_mc:LwfMc",
    "ewc": "plop_baseline.ewc:Ewc",
    "frozen": "plop_baseline.frozen:Frozen",
    "mas": "plop_baseline.mas:Mas",
    "gem": "plop_baseline.gem:Gem",
    "a-gem": "plop_baseline.a_gem:AGem",
    "gd-wild": "plop_baseline.gd_wild:GdWild",
    "nsp": "plop_baseline.nsp:Nsp",
    "connector": "plop_baseline.connector:Connector",
}

# BASE+NAME: a function from the class of a method to that of the wrapped one
WRAPPERS = {"s2mf": "css.s2mf:around", "align": "css.aligned:around", "replay": "plop_baseline.replay:around"}


@dataclass(frozen=True)
class NoOptions:
    """For methods without a setting of their own."""


class Method:
    """How the tasks after the first are learnt. The first task is plain cross-entropy for every method.

    A new method is a subclass in a file of its own; most need only `losses`. The order of calls for one task is
    learn (which calls prepare, then losses once per batch; learn_first in the first task), then finish, then tensors.
    """

    Options: ClassVar[type] = NoOptions  # a frozen dataclass; its fields become --options.NAME
    fused_options: ClassVar[Any] = None  # the default Options within +s2mf, if they are to differ
    joint: ClassVar[bool] = False  # learn all classes in one single task
    segmentation_only: ClassVar[bool] = False  # needs a background class, or logits that are no log-probabilities
    summary: ClassVar[str] = ""  # one line for `css list`

    def __init__(self, options: Any = None):
        self.options = self.Options() if options is None else options

    def check(self, config: "RunConfig") -> None:
        """Raises InputError if the method cannot work with this configuration. Called before anything is written."""

    def check_tasks(self, config: "RunConfig", tasks: Iterable[Task]) -> None:
        """Raises InputError if the method cannot learn one of these tasks. Called before anything is written, too."""

    def learn_first(self, task: Task, model: Segmenter, trainer: "Trainer") -> None:
        """Learns the first task: plain cross-entropy, so that all methods can start from one run's first task."""
        trainer.fit(model, task, plain_losses)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: "Trainer") -> None:
        """Learns a later task. `teacher` is the frozen model of the previous one."""
        trainer.fit(model, task, self.objective(task, model, teacher, trainer))

    def objective(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: "Trainer") -> "Losses":
        """What the trainer minimises in a later task: `losses`, after `prepare`."""
        self.prepare(task, model, teacher, trainer)

        def losses(forward: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.losses(task, forward, teacher, images, labels)

        return losses

    def prepare(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: "Trainer") -> None:
        """What must be known before the first batch of a task, for example thresholds."""

    def losses(
        self, task: Task, forward: nn.Module, teacher: Segmenter, images: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Named terms whose sum is minimised. `forward` is the model; images are normalised, labels are channels."""
        raise NotImplementedError

    def finish(self, task: Task, model: Segmenter, trainer: "Trainer") -> None:
        """What to remember when a task ends, for example importances; also after a first task taken from elsewhere."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What must survive until the next task; saved beside the model."""
        return {}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `tensors` returned."""

    def store(self, home: Path, task: Task, model: Segmenter) -> None:
        """Writes what else belongs into the folder of the task that has just ended, for example pictures."""


def plain_losses(forward: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"ce": cross_entropy(forward(images).logits, labels)}


def method_class(name: str) -> type[Method]:
    """The class behind a name of METHODS, or behind "package.module:Class" for a method of the user's own.

    "BASE+s2mf" is Split2MetaFusion around such a class, "BASE+align" trains its classifiers once more after every task,
    "BASE+replay" adds a memory of old images.
    """
    base, plus, wrapper = name.rpartition("+")
    if plus:
        if wrapper not in WRAPPERS:
            raise InputError(f"--method {name}: {wrapper!r} wraps no method; choose BASE+{' or BASE+'.join(WRAPPERS)}.")
        module, _, attribute = WRAPPERS[wrapper].partition(":")
        return getattr(importlib.import_module(module), attribute)(method_class(base))
    if name not in METHODS and ":" not in name:
        raise InputError(
            f"--method {name} is unknown; choose from {', '.join(METHODS)} or name your own as package.module:Class."
        )
    module, _, attribute = METHODS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--method {name} cannot be imported ({error}); check the module path.") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"--method {name} is not a subclass of css.method.Method.")
    return found
