"""The command line: css run | extend | table | evaluate | analyse | predict | export | report | data | ... | list."""

import contextlib
import errno
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from css.cli.arguments import WANTS_HELP, value_of
from css.system.group import member
from tasks.datasets.registry import DATASETS, is_folder
from tasks.errors import InputError, nearest, sentence

USAGE = """usage: css COMMAND ...

  demo                             three classes learnt, two added, a picture and a table, in a minute and a half
  run DATASET PROTOCOL [options]   learn a stream, for example: css run shapes 15-1 --method plop
  extend MODEL --data FOLDER --classes NAME ...   add classes to a trained model, from images of these alone
  table RECIPE [options]           all runs of a recipe, one table
  evaluate RUN [options]           test a saved task again
  analyse RUN... [options]         what Split2MetaFusion did: models, dreams, gates, loss landscape
  predict MODEL INPUT... [options] masks for your own images, folders, videos
  export RUN [options]             the model for onnxruntime, OpenVINO or torch.export
  report RUN...                    the tables of finished or unfinished runs
  data init|check|convert ...      your own images and masks: describe them, look at them, read other formats
  prepare DATASET [options]        download and build voc, cifar100 or tiny-imagenet
  list                             data sets and methods

`css COMMAND --help` lists the options of a command, `css --version` says which version this is. `css DATASET PROTOCOL`
is short for `css run DATASET PROTOCOL`."""


class Command(NamedTuple):
    """A command of css; what it needs is imported when it is called."""

    function: str  # "module:function"; its parameters are the options, or it takes the list of arguments as it is
    parses: bool = False  # it takes the list
    several: str | None = None  # it shares its work between processes if this flag is given ("" for always)
    again: str = "the same command begins anew"  # what a user is told who has interrupted it


_GOES_ON = "the same command goes on from the last checkpoint"
COMMANDS = {
    "demo": Command("css.cli.demo:demo", again=_GOES_ON),
    "run": Command("css.cli.run:run_command", parses=True, again=_GOES_ON),
    "extend": Command("css.cli.extend:extend", several="", again=_GOES_ON),
    # a table starts its cells; a cell shares its work
    "table": Command("css.cli.table:table", several="--cell", again=_GOES_ON),
    "evaluate": Command("css.cli.saved:evaluate", several=""),
    "analyse": Command("css.cli.saved:analyse"),
    "predict": Command("css.cli.predict:predict", again="the same command goes on with --skip-existing"),
    "export": Command("css.cli.export:export"),
    "report": Command("css.cli.report:report"),
    "data": Command("css.cli.data:data_command", parses=True),
    "prepare": Command("css.cli.listing:prepare"),
    "list": Command("css.cli.listing:list_all"),
}


_OF_PATHS = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS}  # no file can be there


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; other errors than wrong usage, wrong input and interrupts are raised.

    Returns the exit code: 0 done, 2 wrong usage or input, 1 interrupted or a cell of a table failed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _add_current_folder()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # a closed pipe is met here, not after all, where Python would complain
        return code
    except InputError as error:
        return _refused(error)
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except BrokenPipeError:  # css ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_PATHS:
            return _refused(InputError(f"{error.filename}: {error.strerror}; give another path."))
        if type(error).__name__ == "SignalException":  # of torchrun, which this process may not have imported
            return _interrupted(arguments)
        if isinstance(error, RuntimeError) and _in_group():
            time.sleep(5)  # perhaps another process has failed, and torchrun is about to end this one
        raise
    finally:
        if _in_group():
            sys.modules["torch"].distributed.destroy_process_group()


def _refused(error: InputError) -> int:
    with contextlib.suppress(InputError):  # which may be what is refused
        if member().rank:
            time.sleep(3)  # the first process, if it met the same error, says so and ends this one meanwhile
    print(f"css: {sentence(error)}", file=sys.stderr, flush=True)
    if _in_group():
        os._exit(2)  # leaving the group in order would make the others fail first, with a traceback
    return 2


def _add_current_folder() -> None:
    """Methods and data sets of the user's own are found there, after all else."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _dispatch(arguments: list[str]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in WANTS_HELP:
        print(USAGE)
        return 0
    if name == "--version":
        return _print_version()
    if name not in COMMANDS and (name in DATASETS or ":" in name or is_folder(name)):
        name, rest = "run", arguments
    if name not in COMMANDS:
        raise InputError(f"{name!r} is no command; {nearest(name, [*COMMANDS, *DATASETS])}.")
    return _call(name, COMMANDS[name], rest)


def _call(name: str, command: Command, arguments: list[str]) -> int:
    if os.environ.get("NO_COLOR"):  # see no-color.org; tyro asks for the terminal alone
        os.environ["TERM"] = "dumb"
    module, _, attribute = command.function.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    if command.parses:
        return function(arguments)
    shares = command.several is not None and (not command.several or value_of(command.several, arguments) is not None)
    if shares and not WANTS_HELP & set(arguments):
        from css.system.launch import launch, wanted_processes

        if wanted_processes() > 1:
            return launch(wanted_processes(), [name, *arguments])
    import tyro

    return tyro.cli(function, args=arguments, prog=f"css {name}") or 0


def _print_version() -> int:
    from css.system.version import commit, version

    print(" ".join(filter(None, ("css", version(), commit()))))
    return 0


def _interrupted(arguments: Sequence[str]) -> int:
    command = COMMANDS.get(arguments[0] if arguments else "", COMMANDS["run"])
    print(f"css: interrupted; {command.again}.", file=sys.stderr)
    return 1


def _in_group() -> bool:
    """Is this process one of several? Asked without importing PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
