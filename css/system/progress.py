"""What long work says where no progress bar can be drawn: bars are for terminals, a file gets one line per epoch."""

import sys
from collections.abc import Mapping


def say_epoch(what: str, epoch: int, epochs: int, losses: Mapping[str, float], seconds: float) -> None:
    """One line on stderr after an epoch, if that is not a terminal.

    Args:
        what: The task and the stage.
        epoch: How many epochs are done.
        epochs: How many there are.
        losses: Means over the epoch, by name.
        seconds: That the epoch took.
    """
    if not sys.stderr.isatty():
        values = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        print(f"{what}: epoch {epoch}/{epochs}, {values}, {seconds:.0f} s", file=sys.stderr, flush=True)
