"""From the names on the command line to a stream of tasks."""

from css.config.settings import RunConfig
from css.kinds.choice import kind_of
from tasks import Stream
from tasks.datasets.registry import open_source, place_of
from tasks.source import Source


def make_source(config: RunConfig) -> Source:
    """The data set of a configuration. Raises InputError if it is unknown or not there."""
    return open_source(config.dataset, place_of(config.dataset, config.data_root))


def make_stream(config: RunConfig) -> Stream:
    """The stream of a configuration. Raises InputError for missing data or a protocol that does not fit it."""
    return Stream.cut(
        make_source(config), config.protocol, config.classes, config.order,
        kind_of(config.dataset).split, setting=config.setting, future=config.future, void=config.void,
    )  # fmt: skip
