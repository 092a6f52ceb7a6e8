"""The command that makes a run again, from the settings in its results.json."""

import shlex
from collections.abc import Iterator
from typing import Any

_POSITIONAL = ("dataset", "protocol")


def run_command(config: dict[str, Any]) -> str:
    """`css run` with every setting, whatever the defaults are or become. Empty lists are left out: they are defaults.

    Args:
        config: The settings as results.json has them.
    """
    rest = {key: value for key, value in config.items() if key not in _POSITIONAL}
    words = ["css", "run", *(str(config[key]) for key in _POSITIONAL), *_flags(rest, "")]
    return shlex.join(words)


def _flags(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value, f"{name}.")
        elif isinstance(value, bool):
            head, _, last = name.rpartition(".")
            yield f"--{name}" if value else f"--{head}{'.' if head else ''}no-{last}"
        elif isinstance(value, list):
            yield from (f"--{name}", *map(str, value)) if value else ()
        else:
            yield from (f"--{name}", str(value))
