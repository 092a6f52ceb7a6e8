"""Checks that option groups share."""

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
