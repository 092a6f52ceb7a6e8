"""Methods around a base method: `BASE+NAME`. Options of the base method are `--options.base.NAME`."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import field
from typing import Any, ClassVar

from css.files import part, prefixed
from css.method import Method
from tasks import InputError


class Wrapper(Method):
    """`self.base` is the base method with its own options; made into a class of its own by `wrap`.

    What a wrapper overrides calls super(), which passes it on to the base.
    """

    Base: ClassVar[type[Method]]
    losses_alone: ClassVar[bool] = True  # the base must learn every task by its losses alone

    def __init__(self, options=None):
        super().__init__(options)
        self.base = self.Base(self.options.base)

    def check(self, config):
        with _naming_base_options():
            self.base.check(config)

    def check_tasks(self, config, tasks):
        with _naming_base_options():
            self.base.check_tasks(config, tasks)

    def learn_first(self, task, model, trainer):
        self.base.learn_first(task, model, trainer)

    def finish(self, task, model, trainer):
        self.base.finish(task, model, trainer)

    def tensors(self):
        return prefixed(base=self.base.tensors())

    def load_tensors(self, tensors):
        self.base.load_tensors(part(tensors, "base"))

    def store(self, home, task, model):
        self.base.store(home, task, model)


@contextlib.contextmanager
def _naming_base_options() -> Iterator[None]:
    """What the base method calls --options.NAME is --options.base.NAME to the user."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("--options.", "--options.base.")) from None


def wrap(wrapper: type[Wrapper], base: type[Method], suffix: str, base_options: Any = None) -> type[Wrapper]:
    """The class of `wrapper` around a base method, whose options are by default `base_options`, if they are given.

    Raises InputError for joint training, and for a base that does more than give losses where it must not.
    """
    if base.joint:
        raise InputError(
            f"+{suffix} goes around a method that learns task after task, for example plop+{suffix}; joint training "
            "has a single one."
        )
    if wrapper.losses_alone and base.learn is not Method.learn:
        raise InputError(
            f"+{suffix} needs a base method that learns every task by its losses alone, for example plop+{suffix}, "
            f"mib+{suffix} or finetune+{suffix}."
        )
    options = dataclasses.make_dataclass(
        f"{base.__name__}{wrapper.Options.__name__}",
        [("base", base.Options, field(default_factory=lambda: base_options or base.Options()))],
        bases=(wrapper.Options,), frozen=True,
    )  # fmt: skip
    members = {
        "Base": base,
        "Options": options,
        "segmentation_only": base.segmentation_only or wrapper.segmentation_only,
    }
    return type(f"{base.__name__}{wrapper.__name__}", (wrapper,), members)
