"""A stream of tasks, cut from a data set by a protocol and a setting."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.batches import TaskImages, Transform
from tasks.errors import InputError, nearest
from tasks.protocol import label_lut, seen_classes, select_images, split_classes
from tasks.source import BACKGROUND, VOID, Source

MOST_VALUES = 10  # that a sentence lists


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
        chosen = sorted(class_ids(source, classes, "--classes")) if classes else list(range(1, len(source.class_names)))
        if order:
            wanted = class_ids(source, order, "--order")
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

    def task(self, index: int, needs: Sequence[str] = ("train", "test")) -> Task:
        """The task of this index, from 0. Raises InputError if a split that it `needs` has no image for it."""
        indices = {
            split: select_images(self.source.presence(split), self.groups, index, self.setting, split)
            for split in ("train", "test")
        }
        for split, images in indices.items():
            if split in needs and not len(images):
                names = ", ".join(self.source.class_names[c] for c in self.groups[index] if c != BACKGROUND)
                raise InputError(
                    f"Task {index} ({names}) has no {split} image in the {self.setting} setting of {self.source.name}, "
                    f"whose {split} images hold {_held(self.source, split)}: choose other classes (--classes), another "
                    "protocol or --setting overlap, or write the right class ids into the masks."
                )
        return Task(
            index, self.groups, self.source, indices["train"], indices["test"],
            label_lut(self.groups, index, "train", self.future, self.void, self.setting),
            label_lut(self.groups, index, "test", self.future, self.void, self.setting),
        )  # fmt: skip

    def describe(self) -> str:
        """One line per task: its classes and image counts; and one if nothing is labelled as the background."""
        lines = [f"{self.source.name}, {self.setting} setting, {len(self)} task{'s' if len(self) > 1 else ''}"]
        for task in self:
            names = [self.source.class_names[c] for c in task.new_classes if c != BACKGROUND]
            shown = ", ".join(names) if len(names) <= 6 else f"{names[0]} ... {names[-1]} ({len(names)} classes)"
            counts = f"{len(task.train_indices):>6} train, {len(task.test_indices):>5} test images"
            lines.append(f"  task {task.index}: {counts}: {shown}")
        if BACKGROUND in self.groups[0] and not self.source.presence("train")[:, BACKGROUND].any():
            lines.append("  no training mask holds 0, the background: right only if every pixel shows a class")
        return "\n".join(lines)


def _held(source: Source, split: str) -> str:
    """Which values the masks of a split hold, and how many of them each."""
    presence = source.presence(split)
    counts = presence.sum(0)
    names = {VOID: "void", **dict(enumerate(source.class_names))}
    frequent = sorted(np.argsort(-counts, kind="stable")[: min(MOST_VALUES, np.count_nonzero(counts))].tolist())
    values = [f"{value} ({names.get(value, 'no class')}) in {counts[value]}" for value in frequent]
    more = np.count_nonzero(counts) - len(frequent)
    return f"the values {', '.join(values)}{f' and {more} more values' if more else ''} of {len(presence)} masks"


def class_ids(source: Source, classes: Sequence[str | int], flag: str) -> list[int]:
    """Raw ids of classes by name or id. Raises InputError, naming `flag`, for an unknown one or one named twice."""
    ids = []
    for given in classes:
        name = unicodedata.normalize("NFC", str(given))  # as class names are; macOS writes umlauts as two letters
        if name in source.class_names[1:]:
            ids.append(source.class_names.index(name))
        elif name.isdecimal() and 1 <= int(name) < len(source.class_names):
            ids.append(int(name))
        else:
            raise InputError(
                f"{flag}: {name!r} is not a class of {source.name}, which has 1 to {len(source.class_names) - 1}; "
                f"{nearest(name, source.class_names[1:])}."
            )
    if len(set(ids)) != len(ids):
        raise InputError(f"{flag} names a class twice: {' '.join(map(str, classes))}.")
    return ids
