"""Everything that is written to or read from a run folder: atomically, and only tensors, JSON and YAML."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import InputError

_WAYS_OUT = {
    FileExistsError: "move the file that is in its way", FileNotFoundError: "make the folder",
    NotADirectoryError: "move the file that is in its way", PermissionError: "change its permissions",
}  # fmt: skip


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (file or folder), which takes its place when the block ends without error.

    A process killed inside the block leaves `path` as it was. Raises InputError if the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        try:
            yield temporary
            if temporary.is_dir():
                _remove(path)
            else:
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            os.replace(temporary, path)  # noqa: PTH105  # the one call that tests interrupt
        except BaseException:
            with contextlib.suppress(OSError):
                _remove(temporary)
            raise


@contextlib.contextmanager
def writing(path: Path | str | None) -> Iterator[None]:
    """Inside the block an error of the operating system becomes an InputError of one sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}; {_WAYS_OUT.get(type(error), 'free some space')} "
            "or choose another folder (--runs, --out)."
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As `atomic`: the whole file or none of it. Raises InputError if the folder cannot be written."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """As `write_text`, of anything that JSON can hold."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError if it is absent or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name the folder of a run that has started.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); restore it or start the run anew.") from None
