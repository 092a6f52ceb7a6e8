"""From the names on the command line to a stream of tasks."""

from css.config import RunConfig, data_root
from tasks import Stream
from tasks.shapes import Shapes
from tasks.source import Source
from tasks.voc import Voc


def make_source(config: RunConfig) -> Source:
    return Shapes() if config.dataset == "shapes" else Voc(data_root(config.data_root))


def make_stream(config: RunConfig) -> Stream:
    return Stream.cut(
        make_source(config), config.protocol, config.classes, config.order,
        setting=config.setting, future=config.future, void=config.void,
    )  # fmt: skip
