"""Writes a file of a data set so that it is there whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from tasks.errors import InputError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write` is given a temporary path beside `path`. Raises InputError if the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): free some space or make it writable."
        ) from None


def write_text(path: Path, text: str) -> None:
    """As `write_whole`, in UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
