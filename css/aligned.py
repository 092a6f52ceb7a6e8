"""Any method with aligned classifiers: they are trained once more when a task ends, on drawn features, too."""

import functools

from css.alignment import Alignment
from css.files import part, prefixed
from css.method import Method, NoOptions
from css.wrapper import Wrapper, wrap
from tasks import InputError


class Aligned(Wrapper):
    """What the base method leaves of a task, with the classifiers of `css.alignment`. Split2MetaFusion has its own."""

    Options = NoOptions
    summary = "classifiers trained once more after every task, on features drawn for the old classes"
    segmentation_only = True
    losses_alone = False

    def __init__(self, options=None):
        super().__init__(options)
        self.alignment = Alignment()

    def learn(self, task, model, teacher, trainer):
        self.base.learn(task, model, teacher, trainer)
        self.alignment.align(task, model, teacher, trainer)

    def finish(self, task, model, trainer):
        super().finish(task, model, trainer)
        self.alignment.finish(task, model, trainer)

    def tensors(self):
        return super().tensors() | prefixed(alignment=self.alignment.tensors())

    def load_tensors(self, tensors):
        super().load_tensors(tensors)
        self.alignment.load_tensors(part(tensors, "alignment"))


@functools.cache
def around(base: type[Method]) -> type[Wrapper]:
    if issubclass(base, Wrapper):
        raise InputError(
            "+align goes around a base method, as in plop+align or frozen+align; BASE+s2mf aligns by itself."
        )
    return wrap(Aligned, base, "align")
