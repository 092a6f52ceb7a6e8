"""Named tensors in safetensors files, written atomically, with facts in their headers."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from css.system.files import atomic
from tasks.errors import InputError

_FORMAT = "css-1"


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], facts: dict | None = None) -> None:
    """One safetensors file; `facts` (anything JSON can hold) travel in its header, so that both change together.

    Raises InputError if the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": _FORMAT, "facts": json.dumps(facts or {})})
            temporary.chmod(_mode())  # safetensors makes files that nobody else may read
        except SafetensorError as error:  # wraps the operating system's "no space left"
            raise OSError(str(error)) from error


def _mode() -> int:
    """That of any other new file. The mask can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


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
