"""Checks that option groups share."""

import math
from collections.abc import Iterable
from typing import Any

from tasks import InputError


def require_values(options: Any, flag: str, needs: dict[str, tuple[bool, str]]) -> None:
    """Raises InputError for the first field that does not hold.

    `needs`: by field whether its value will do, and what would. `flag`: what the fields stand below, for users.
    """
    for name, (holds, wanted) in needs.items():
        if not holds:
            value = getattr(options, name)
            raise InputError(f"{flag}.{name.replace('_', '-')} {value} does not fit; give one {wanted}.")


def not_negative(options: Any, names: Iterable[str]) -> dict[str, tuple[bool, str]]:
    """What `require_values` needs of these fields: a finite number of at least 0."""
    return {name: (0 <= getattr(options, name) < math.inf, "of at least 0") for name in names}
