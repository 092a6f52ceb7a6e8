"""From the names on the command line to a stream of tasks."""

import functools

from css.config import RunConfig, data_root
from css.kinds import kind_of
from tasks import Stream
from tasks.cifar100 import Cifar100
from tasks.shapes import Shapes
from tasks.single_shapes import SingleShapes
from tasks.source import Source
from tasks.tiny_imagenet import TinyImageNet
from tasks.voc import Voc

_RENDERED = {"shapes": functools.cache(Shapes), "shapes-cls": functools.cache(SingleShapes)}  # once for all runs
_ON_DISK = {"voc": Voc, "cifar100": Cifar100, "tiny-imagenet": TinyImageNet}


def make_source(config: RunConfig) -> Source:
    if config.dataset in _RENDERED:
        return _RENDERED[config.dataset]()
    return _ON_DISK[config.dataset](data_root(config.data_root))


def make_stream(config: RunConfig) -> Stream:
    return Stream.cut(
        make_source(config), config.protocol, config.classes, config.order, kind_of(config.dataset).split,
        setting=config.setting, future=config.future, void=config.void,
    )  # fmt: skip
