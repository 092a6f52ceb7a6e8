"""The one exception for mistakes a user can make, and how names that are not known are answered."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Wrong usage or wrong input. The message is one clear sentence that names the file or the flag and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def sentence(error: BaseException | str) -> str:
    """The message of an error alone: a worker of the data loader wraps it in its own traceback, whose last line it is.

    Args:
        error: The exception, or what a process that failed has printed.
    """
    text = str(error).strip() or (error if isinstance(error, str) else type(error).__name__) or "unknown error"
    return text.splitlines()[-1].removeprefix(f"{InputError.__module__}.{InputError.__qualname__}: ")


def nearest(name: str, known: Iterable[str]) -> str:
    """How a sentence on an unknown name ends: the nearest known names first, then what there is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=2)
    guess = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{guess}choose from {', '.join(names)}"
