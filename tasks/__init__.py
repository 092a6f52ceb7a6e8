"""What is learnt, in which order: data sets, protocols, settings. Knows nothing of networks or methods."""

from tasks.errors import InputError
from tasks.protocol import label_lut, seen_classes, select_images, split_classes, split_evenly
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
