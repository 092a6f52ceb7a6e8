"""From the names on the command line to a stream of tasks."""

import functools

from css.config import RunConfig, data_root
from tasks import Stream
from tasks.shapes import Shapes
from tasks.source import Source
from tasks.voc import Voc

_shapes = functools.lru_cache(maxsize=1)(Shapes)  # rendered once for all runs of a table


def make_source(config: RunConfig) -> Source:
    return _shapes() if config.dataset == "shapes" else Voc(data_root(config.data_root))


def make_stream(config: RunConfig) -> Stream:
    return Stream.cut(
        make_source(config), config.protocol, config.classes, config.order,
        setting=config.setting, future=config.future, void=config.void,
    )  # fmt: skip
