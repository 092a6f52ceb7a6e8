"""What is to be extended, by what, and where the result goes."""

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_METHOD = "hypercolumn"  # one pass over the images, no epochs
FOREIGN_METHODS = ("frozen", "finetune")  # for networks of other libraries; the first one is the default

LONGEST = 80  # names in that of a folder, in characters; file systems take 255 bytes
_SLASHES = re.compile(r"[/\\]")


@dataclass(frozen=True)
class Request:
    """One extension.

    Attributes:
        model: Run folder (of another library's network one that `css.extend.adopt` has written); its last finished
            task is what is extended.
        data: Folder with data.yaml, or the name of a data set.
        classes: Names of the new classes, as in the data.
        out: Run folder to write; default: MODEL+CLASSES beside the model's.
        method: Name of a method, see `css list`; default: DEFAULT_METHOD, and "frozen" for networks of other libraries,
            which keeps their answers wherever the new class is not chosen.
        epochs: Epochs of the new task; default: as many as the later tasks of the model had.
        seed: Seed of initialisation, order and augmentation.
        first_data: Folder whose labelled images show the old classes, for statistics of their features.
        old_test: Folder on whose validation images the old classes are tested before and after.
        crop: Side of the training crops in pixels; default: that of the model.
    """

    model: Path
    data: str
    classes: tuple[str, ...]
    out: Path | None = None
    method: str | None = None
    epochs: int | None = None
    seed: int = 0
    first_data: str | None = None
    old_test: str | None = None
    crop: int | None = None

    @property
    def folder(self) -> Path:
        """The run folder of the result."""
        added = "".join(f"+{name}" for name in self.classes)
        if len(added) > LONGEST:
            added = f"+{self.classes[0]}+{len(self.classes) - 1} more"
        return self.out or self.model.with_name(f"{self.model.resolve().name}{_SLASHES.sub('_', added)}")
