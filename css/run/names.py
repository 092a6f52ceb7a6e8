"""What may name a run, and which seeds there are."""

import os
from typing import Any

from css.config.settings import RunConfig
from tasks import InputError

MOST_SEED = 2**32 - 1  # dreams draw with seeds about 10^9 times as large, which must fit into 64 bits
MOST_BYTES = 200  # of a file's name: file systems have 255, and what is written beside a run has a longer one


def require_names(config: RunConfig[Any]) -> None:
    """Raises InputError for a seed, or a name of a run folder, that cannot be used."""
    if not 0 <= config.seed <= MOST_SEED:
        raise InputError(f"--seed {config.seed} must be from 0 to {MOST_SEED}.")
    if config.name is not None and not _is_plain(config.name):
        raise InputError(
            f"--name {config.name!r} cannot name a run folder: give a plain name, without slashes; the folder of all "
            "runs is --runs."
        )
    if long := [part for part in config.folder.parts if len(os.fsencode(part)) > MOST_BYTES]:
        raise InputError(
            f"The run folder would have a name of {len(os.fsencode(long[0]))} bytes ({long[0][:40]}...), more than "
            f"{MOST_BYTES}; give a shorter one with --name or --runs."
        )


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & {"/", "\\"} and name == name.strip()
