"""Everything that is written to or read from a run folder: atomically, and only tensors, JSON and YAML."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tasks.errors import InputError

_FORMAT = "css-1"


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
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove(temporary)
            raise


@contextlib.contextmanager
def writing(path: Path | str | None) -> Iterator[None]:
    """Turns an error of the operating system into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}; free some space or choose another folder (--runs, --out)."
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name the folder of a run that has started.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); restore it or start the run anew.") from None


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], facts: dict | None = None) -> None:
    """One safetensors file; `facts` (anything JSON can hold) travel in its header, so that both change together."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": _FORMAT, "facts": json.dumps(facts or {})})
        except SafetensorError as error:  # wraps the operating system's "no space left"
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and facts of a file made by `save_tensors`. Raises InputError for a corrupt or foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"{path} is not a checkpoint of this program; name a run folder made by it.")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["facts"])  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is missing or corrupt ({error}); delete its folder to compute it again.") from None


def prefixed(**groups: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Several groups of named tensors as one: entries GROUP.NAME."""
    return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def part(tensors: dict[str, torch.Tensor], group: str) -> dict[str, torch.Tensor]:
    """The entries GROUP.NAME, by NAME."""
    return {name.removeprefix(f"{group}."): t for name, t in tensors.items() if name.startswith(f"{group}.")}
