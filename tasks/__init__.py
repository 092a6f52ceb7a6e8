"""What is learnt, in which order: data sets, protocols, settings. Knows nothing of networks or methods."""

from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.protocol import label_lut, seen_classes, select_images, split_classes, split_evenly

if TYPE_CHECKING:
    from tasks.stream import Stream, Task

__all__ = [
    "InputError",
    "Stream",
    "Task",
    "label_lut",
    "seen_classes",
    "select_images",
    "split_classes",
    "split_evenly",
]


def __getattr__(name: str) -> Any:
    """Streams hold torch data sets, and PyTorch takes two seconds to import: not for a list or a wrong option."""
    if name in ("Stream", "Task"):
        from tasks import stream

        return getattr(stream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
