"""From the names on the command line to a stream of tasks."""

from typing import Any

from css.config.settings import RunConfig
from tasks import Stream
from tasks.datasets.registry import open_source, place_of, split_of
from tasks.renamed import Renamed
from tasks.source import Source


def make_source(config: RunConfig) -> Source:
    """The data set of a configuration. Raises InputError if it is unknown or not there."""
    return open_source(config.dataset, place_of(config.dataset, config.data_root))


def make_stream(config: RunConfig) -> Stream:
    """The stream of a configuration. Raises InputError for missing data or a protocol that does not fit it."""
    return Stream.cut(
        make_source(config), config.protocol, config.classes, config.order,
        split_of(config.dataset), setting=config.setting, future=config.future, void=config.void,
    )  # fmt: skip


def stream_of(config: RunConfig, results: dict[str, Any]) -> Stream:
    """The stream of a run with these results; that of an extended one has the class ids of the model it went on from.

    Raises InputError for missing data.
    """
    if "extends" not in results:
        return make_stream(config)
    return extended_stream(config, results["class_names"], results["protocol_groups"], results["colours"])


def extended_stream(config: RunConfig, names: list[str], groups: list[list[int]], colours: list[list[int]]) -> Stream:
    """A stream whose last task alone is learnt from the data of the configuration, its classes matched by name."""
    source = Renamed(make_source(config), names, colours)
    return Stream(source, groups, setting=config.setting, future=config.future, void=config.void)
