"""css run."""

import sys
from typing import Any, cast

import tyro

from css.cli.arguments import WANTS_HELP, value_of
from css.config.methods import require_known
from css.config.settings import NoOptions, RunConfig
from tasks.datasets.registry import find_dataset, full_name, open_source, place_of, split_of
from tasks.errors import InputError


def run_command(arguments: list[str]) -> int:
    """Learns a stream, in as many processes as are wanted; returns the exit code."""
    config = parse_run(arguments)
    from css.run.checks import checked_stream, resolve
    from css.run.flow import run
    from css.system.launch import launch, wanted_processes
    from css.system.processes import Processes

    count = wanted_processes()
    if count > 1:
        checked_stream(resolve(config), count)  # what a user can get wrong is found before any process starts
        return launch(count, ["run", *arguments])
    run(config, Processes.join())
    return 0


def parse_run(arguments: list[str]) -> RunConfig[Any]:
    """The configuration of a command line. Raises InputError for an unknown data set or method, or without a protocol.

    The defaults depend on the data set and the options on the method, so both are looked up first.
    """
    named = [argument for argument in arguments[:2] if not argument.startswith("-")]
    wants_help = WANTS_HELP & set(arguments)
    if len(named) < 2 and not wants_help:
        raise InputError("css run needs a data set and a protocol first, for example: css run shapes 15-1.")
    dataset = full_name(named[0]) if named else "voc"
    find_dataset(dataset)
    arguments = [dataset, *arguments[1:]] if named and arguments[0] == named[0] else arguments
    if method := value_of("--method", arguments):
        require_known(method)
    if not wants_help:
        _require_fit(_known_settings(arguments))
    from css.method.registry import options_type
    from css.run.presets import preset

    default, parser = preset(dataset, method), cast("Any", RunConfig)
    return tyro.cli(
        parser[options_type(default.method)], default=default, args=arguments, prog="css run",
        description=f"Learn a stream of tasks. Defaults are those of {default.dataset} and {default.method}.",
    )  # fmt: skip


def _known_settings(arguments: list[str]) -> RunConfig[Any]:
    """The settings that every method has, before PyTorch is imported to ask one for its own.

    Ends the program for an option that no method has.
    """
    parser: Any = RunConfig[NoOptions]
    config, unknown = tyro.cli(parser, args=arguments, prog="css run", return_unknown_args=True)
    if unknown and unknown[0].startswith("--") and not unknown[0].startswith("--options."):
        tyro.cli(parser, args=[*arguments[:2], *unknown], prog="css run")
        sys.exit(2)
    return config


def _require_fit(config: RunConfig[Any]) -> None:
    """Raises InputError if the data are not there or the protocol does not fit them, before PyTorch is imported."""
    source = open_source(config.dataset, place_of(config.dataset, config.data_root))
    split_of(config.dataset)(config.protocol, len(config.classes or source.class_names[1:]))
