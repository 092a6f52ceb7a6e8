"""A stream of tasks, cut from a data set by a protocol and a setting."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.batches import TaskImages, Transform
from tasks.errors import InputError
from tasks.protocol import label_lut, seen_classes, select_images, split_classes
from tasks.source import BACKGROUND, Source


@dataclass(frozen=True)
class Task:
    """One step of the stream. Channel k of the model's output is `seen_classes[k]`; background is channel 0."""

    index: int
    groups: list[list[int]]  # raw class ids of every task of the stream, background in the first
    source: Source
    train_indices: np.ndarray
    test_indices: np.ndarray
    train_lut: np.ndarray
    test_lut: np.ndarray

    @property
    def new_classes(self) -> list[int]:
        """Raw ids of the classes of this task; the first one has the background, too."""
        return self.groups[self.index]

    @property
    def old_classes(self) -> list[int]:
        """Raw ids of the classes of all earlier tasks, in the order of the channels."""
        return seen_classes(self.groups, self.index - 1) if self.index else []

    @property
    def seen_classes(self) -> list[int]:
        """Raw ids of the classes of this and all earlier tasks, in the order of the channels."""
        return seen_classes(self.groups, self.index)

    def train(self, transform: Transform) -> TaskImages:
        """Its training images, whose labels are what this task is told."""
        return TaskImages(self.source, "train", self.train_indices, self.train_lut, transform)

    def test(self, transform: Transform) -> TaskImages:
        """Its test images, whose labels are all classes seen so far."""
        return TaskImages(self.source, "test", self.test_indices, self.test_lut, transform)


@dataclass(frozen=True)
class Stream:
    """All tasks of one protocol. Iterate to get them in order; raises InputError if a task has no image."""

    source: Source
    groups: list[list[int]]
    setting: str = "overlap"
    future: str = "background"
    void: str = "ignore"

    @classmethod
    def cut(cls, source: Source, protocol: str, classes: Sequence[str | int] | None = None,
            order: Sequence[str | int] | None = None, split: Callable[..., list[list[int]]] = split_classes,
            **policies: str) -> "Stream":  # fmt: skip
        """The tasks of a protocol.

        `classes` chooses a subset (kept in id order), `order` the order of learning; names or raw ids. `split` makes
        the groups: `split_classes`, or `split_evenly` where images have labels. Raises InputError for unknown classes,
        an order of other classes than those, or a protocol that does not fit them.
        """
        chosen = (
            sorted(_class_ids(source, classes, "--classes")) if classes else list(range(1, len(source.class_names)))
        )
        if order:
            wanted = _class_ids(source, order, "--order")
            if sorted(wanted) != chosen:
                raise InputError(
                    f"--order must name each of the {len(chosen)} classes of the stream exactly once, "
                    f"it names {', '.join(source.class_names[c] for c in wanted)}."
                )
            chosen = wanted
        return cls(source, split(protocol, len(chosen), chosen), **policies)

    def joint(self) -> "Stream":
        """The same classes in one single task: the upper bound."""
        return Stream(self.source, [sum(self.groups, [])], self.setting, self.future, self.void)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Task]:
        return (self.task(index) for index in range(len(self)))

    def task(self, index: int) -> Task:
        """The task of this index, from 0. Raises InputError if it has no training or no test image."""
        indices = {
            split: select_images(self.source.presence(split), self.groups, index, self.setting, split)
            for split in ("train", "test")
        }
        for split, images in indices.items():
            if not len(images):
                names = ", ".join(self.source.class_names[c] for c in self.groups[index] if c != BACKGROUND)
                raise InputError(
                    f"Task {index} ({names}) has no {split} image in the {self.setting} setting of {self.source.name}: "
                    "choose other classes (--classes), another protocol or --setting overlap."
                )
        return Task(
            index, self.groups, self.source, indices["train"], indices["test"],
            label_lut(self.groups, index, "train", self.future, self.void, self.setting),
            label_lut(self.groups, index, "test", self.future, self.void, self.setting),
        )  # fmt: skip

    def describe(self) -> str:
        """One line per task: its classes and image counts."""
        lines = [f"{self.source.name}, {self.setting} setting, {len(self)} task{'s' if len(self) > 1 else ''}"]
        for task in self:
            names = [self.source.class_names[c] for c in task.new_classes if c != BACKGROUND]
            shown = ", ".join(names) if len(names) <= 6 else f"{names[0]} ... {names[-1]} ({len(names)} classes)"
            counts = f"{len(task.train_indices):>6} train, {len(task.test_indices):>5} test images"
            lines.append(f"  task {task.index}: {counts}: {shown}")
        return "\n".join(lines)


def _class_ids(source: Source, classes: Sequence[str | int], flag: str) -> list[int]:
    ids = []
    for given in classes:
        name = str(given)
        if name in source.class_names[1:]:
            ids.append(source.class_names.index(name))
        elif name.isdecimal() and 1 <= int(name) < len(source.class_names):
            ids.append(int(name))
        else:
            raise InputError(
                f"{flag}: {name!r} is not a class of {source.name}; its classes are 1 to "
                f"{len(source.class_names) - 1}: {', '.join(source.class_names[1:])}."
            )
    if len(set(ids)) != len(ids):
        raise InputError(f"{flag} names a class twice: {' '.join(map(str, classes))}.")
    return ids
