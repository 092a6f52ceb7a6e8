"""The command line: css run | table | evaluate | analyse | predict | report | prepare | list."""

import os
import sys
import time
from collections.abc import Callable, Sequence

import torch
import tyro
from torch.distributed.elastic.multiprocessing.api import SignalException

from css import commands
from css.config import RunConfig, preset, resolve
from css.launch import launch, wanted_processes
from css.processes import Processes
from css.run import checked_stream, run
from tasks import InputError

WANTS_HELP = {"-h", "--help"}
USAGE = """usage: css COMMAND ...

  run DATASET PROTOCOL [options]   learn a stream, for example: css run shapes 15-1 --method plop
  table RECIPE [options]           all runs of a recipe, one table
  evaluate RUN [options]           test a saved task again
  analyse RUN... [options]         what Split2MetaFusion did: models, dreams, gates, loss landscape
  predict RUN IMAGE... [options]   masks for your own images
  report RUN...                    the tables of finished or unfinished runs
  prepare DATASET [options]        download and build voc, cifar100 or tiny-imagenet
  list                             data sets and methods

`css COMMAND --help` lists the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 2 wrong usage or input, 1 interrupted or a cell
    of a table failed. Other errors are raised."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in WANTS_HELP:
        print(USAGE)
        return 0
    try:
        if command not in COMMANDS:
            raise InputError(f"{command!r} is no command; choose from {', '.join(COMMANDS)}.")
        return COMMANDS[command](rest)
    except InputError as error:
        if int(os.environ.get("RANK", 0)):
            time.sleep(3)  # the first process, if it met the same error, says so and ends this one meanwhile
        # A worker of the data loader wraps the message in its own traceback; the last line is ours.
        message = str(error).strip().splitlines()[-1].removeprefix("tasks.errors.InputError: ")
        print(f"css: {message}", file=sys.stderr, flush=True)
        if torch.distributed.is_initialized():
            os._exit(2)  # leaving the group in order would make the others fail first, with a traceback
        return 2
    except (KeyboardInterrupt, SignalException):
        print("css: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 1
    except RuntimeError:
        if torch.distributed.is_initialized():
            time.sleep(5)  # perhaps another process has failed, and torchrun is about to end this one
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _run(arguments: list[str]) -> int:
    config = parse_run(arguments)
    count = wanted_processes()
    if count > 1:
        checked_stream(resolve(config), count)  # what a user can get wrong is found before any process starts
        return launch(count, ["run", *arguments])
    run(config, Processes.join())
    return 0


def parse_run(arguments: list[str]) -> RunConfig:
    """The defaults depend on the data set and the options on the method, so both are looked up first."""
    named = [argument for argument in arguments[:2] if not argument.startswith("-")]
    if len(named) < 2 and not WANTS_HELP & set(arguments):
        raise InputError("css run needs a data set and a protocol first, for example: css run shapes 15-1.")
    default = preset(named[0] if named else "voc", _value_of("--method", arguments))
    return tyro.cli(
        RunConfig[type(default.options)], default=default, args=arguments, prog="css run",
        description=f"Learn a stream of tasks. Defaults are those of {default.dataset} and {default.method}.",
    )  # fmt: skip


def _value_of(flag: str, arguments: list[str]) -> str | None:
    value = None  # the last one counts, as for tyro
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def _table(arguments: list[str]) -> int:
    """A table starts its cells; only a cell shares its work between processes."""
    return _command("table", commands.table, several=_value_of("--cell", arguments) is not None)(arguments)


def _command(name: str, function: Callable[..., int | None], several: bool = False) -> Callable[[list[str]], int]:
    """A command whose parameters are its options; `several`: it shares its work between processes."""

    def command(arguments: list[str]) -> int:
        if several and wanted_processes() > 1 and not WANTS_HELP & set(arguments):
            return launch(wanted_processes(), [name, *arguments])
        return tyro.cli(function, args=arguments, prog=f"css {name}") or 0

    return command


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "table": _table,
    "evaluate": _command("evaluate", commands.evaluate, several=True),
    "analyse": _command("analyse", commands.analyse),
    "predict": _command("predict", commands.predict),
    "report": _command("report", commands.report),
    "prepare": _command("prepare", commands.prepare),
    "list": _command("list", commands.list_all),
}
