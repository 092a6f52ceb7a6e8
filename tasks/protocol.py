"""Which classes, which images and which labels each task of a stream has. Pure array arithmetic.

The rules are those of PLOP (Douillard et al., CVPR 2021, section 4) and MiB (Cermelli et al., CVPR 2020, section 4).
`groups` is always the list of raw class ids per task that `split_classes` returns.
"""

import re
from collections.abc import Sequence

import numpy as np

from tasks.errors import InputError
from tasks.source import BACKGROUND, VOID

SETTINGS = ("overlap", "disjoint", "sequential", "partitioned")
PARTITION_SEED = 0  # the same for all runs, so that methods and seeds are compared on the same images


def split_classes(protocol: str, num_classes: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Raw class ids of each task of protocol "A-B": A classes first, then B at a time until none is left.

    "A-0" is a single task of all A classes. num_classes counts the foreground classes; `order` names their raw ids in
    learning order (default 1..num_classes), so a subset of a data set is the order of its ids. The background is put
    first in the first group.

    Raises InputError for a protocol that does not fit and for an order that is not num_classes distinct ids.
    """
    first, step = _parse(protocol, num_classes)
    order = list(range(1, num_classes + 1)) if order is None else [int(class_id) for class_id in order]
    _require_order(order, num_classes)
    later = [order[start : start + step] for start in range(first, num_classes, step or 1)]
    return [[BACKGROUND, *order[:first]], *later]


def split_evenly(protocol: str, num_classes: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Raw class ids of each task of protocol "K-split": K tasks of as many classes each, without a background.

    Otherwise as `split_classes`. Raises InputError for a K that does not divide the classes.
    """
    order = list(range(1, num_classes + 1)) if order is None else [int(class_id) for class_id in order]
    _require_order(order, num_classes)
    fitting = [k for k in range(2, num_classes // 2 + 1) if num_classes % k == 0]
    advice = f"choose one of {', '.join(f'{k}-split' for k in fitting)}" if fitting else "choose other classes"
    match = re.fullmatch(r"([1-9][0-9]*)-split", protocol)
    if match is None:
        raise InputError(
            f"protocol {protocol!r} is not of the form K-split (K tasks of as many classes each): {advice}."
        )
    if int(match[1]) not in fitting:
        raise InputError(
            f"protocol {protocol!r} does not divide {num_classes} classes into two or more tasks of at least two "
            f"classes each: {advice}."
        )
    size = num_classes // int(match[1])
    return [order[start : start + size] for start in range(0, num_classes, size)]


def seen_classes(groups: list[list[int]], index: int) -> list[int]:
    """Raw ids of all classes up to and including task `index`; position = channel of the model's output."""
    return [class_id for group in groups[: index + 1] for class_id in group]


def select_images(presence: np.ndarray, groups: list[list[int]], index: int, setting: str, split: str) -> np.ndarray:
    """Ascending indices, int64 (n,), of the images of task `index`; presence is bool (images, 256).

    Training images hold a current class (the background does not count); in the disjoint and sequential settings they
    hold no future class besides. In the partitioned setting (Kwak et al., arXiv 2405.09858) every image is in one task
    only: that of one of its classes, drawn at random. Test images hold any seen foreground class, whatever the setting.
    Classes in no group (left out of a class subset) are background: they never exclude an image.

    Raises InputError for an unknown setting or split.
    """
    _require_choice("setting", setting, SETTINGS)
    _require_choice("split", split, ("train", "test"))
    if split == "test":
        return np.flatnonzero(_holds_any(presence, seen_classes(groups, index)))
    if setting == "partitioned":
        chosen = np.isin(drawn_classes(presence, groups), [c for c in groups[index] if c != BACKGROUND])
    else:
        chosen = _holds_any(presence, groups[index])
    if setting in ("disjoint", "sequential"):
        chosen &= ~_holds_any(presence, [class_id for group in groups[index + 1 :] for class_id in group])
    return np.flatnonzero(chosen)


def drawn_classes(presence: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """For each image one of the foreground classes of the stream that it holds, int64 (images,); 0 if it holds none.

    Each is drawn with the same probability (as in the authors' code, jihwankwak/CISS_partitioned). The draw
    depends on the classes of the stream, but neither on their order nor on the protocol.
    """
    classes = np.array(sorted(c for group in groups for c in group if c != BACKGROUND))
    held = presence[:, classes]
    count = held.sum(1)
    draw = np.random.default_rng(PARTITION_SEED).random(len(presence))
    rank = np.minimum(np.floor(draw * count).astype(np.int64), np.maximum(count - 1, 0))
    place = (held.cumsum(1) > rank[:, None]).argmax(1)
    return np.where(count > 0, classes[place], BACKGROUND)


def label_lut(
    groups: list[list[int]],
    index: int,
    split: str,
    future: str = "background",
    void: str = "ignore",
    setting: str = "overlap",
) -> np.ndarray:
    """Table, uint8 (256,), from raw mask values to labels: channel k for seen_classes[k], 255 for ignored pixels.

    ========  ===============  =====================================  =====================================  ===========
    split     current classes  old classes                            future classes                         void (255)
    ========  ===============  =====================================  =====================================  ===========
    "train"   channel          0; channel in the sequential setting   0, whatever `future` says              255 or 0
    "val"     channel          as `future`; channel in sequential     0 or 255                               255
    "test"    channel          channel                                0 or 255                               255
    ========  ===============  =====================================  =====================================  ===========

    future="background" gives 0 and is PLOP's evaluation, "ignore" gives 255 and is MiB's. "val" is the validation on
    the labels of one task only, so there the option rules old classes too. void="background" makes void a background
    label while training, as MiB does; void="ignore" is PLOP's. Values in no group (left out of a subset) give 0.

    Raises InputError for an unknown option value.
    """
    _require_choice("split", split, ("train", "val", "test"))
    _require_choice("future", future, ("background", "ignore"))
    _require_choice("void", void, ("background", "ignore"))
    _require_choice("setting", setting, SETTINGS)

    unlabelled = VOID if future == "ignore" and split != "train" else BACKGROUND
    old_is_labelled = split == "test" or setting == "sequential"
    current = set(groups[index])

    lut = np.full(256, BACKGROUND, dtype=np.uint8)
    lut[[class_id for group in groups for class_id in group]] = unlabelled
    for channel, class_id in enumerate(seen_classes(groups, index)):
        if class_id in current or old_is_labelled:
            lut[class_id] = channel
    lut[BACKGROUND] = BACKGROUND
    lut[VOID] = BACKGROUND if split == "train" and void == "background" else VOID
    return lut


def _parse(protocol: str, num_classes: int) -> tuple[int, int]:
    """The numbers A and B of "A-B", checked against the number of classes."""
    if protocol == f"{num_classes}-0" and num_classes:
        return num_classes, 0
    if num_classes < 2:
        raise InputError(
            f"protocol {protocol!r} needs at least 2 foreground classes, but there are {num_classes}; a single task of "
            f"all classes is {num_classes}-0."
        )
    example = f"{num_classes - 1}-1"
    match = re.fullmatch(r"([1-9][0-9]*)-([1-9][0-9]*)", protocol)
    if match is None:
        raise InputError(
            f"protocol {protocol!r} is not of the form A-B (A classes first, then B per task, both at least "
            f"1): write for example {example}, or {num_classes}-0 for a single task of all classes."
        )
    first, step = int(match[1]), int(match[2])
    rest = num_classes - first
    if rest <= 0:
        raise InputError(
            f"protocol {protocol!r} leaves nothing to learn after the first task, as there are {num_classes} classes: "
            f"choose A below {num_classes}, for example {example}, or {num_classes}-0 for a single task."
        )
    if rest % step:
        fitting = ", ".join(f"{first}-{divisor}" for divisor in range(1, rest + 1) if rest % divisor == 0)
        raise InputError(
            f"protocol {protocol!r} does not fit {num_classes} classes, as the {rest} after the first {first} cannot "
            f"be learnt {step} at a time: choose one of {fitting}."
        )
    return first, step


def _require_order(order: list[int], num_classes: int) -> None:
    if len(order) != num_classes:
        raise InputError(f"the class order names {len(order)} classes instead of {num_classes}: name each class once.")
    if len(set(order)) != len(order):
        twice = next(class_id for class_id in order if order.count(class_id) > 1)
        raise InputError(f"the class order names class {twice} more than once: name each class once.")
    outside = [class_id for class_id in order if not BACKGROUND < class_id < VOID]
    if outside:
        raise InputError(
            f"the class order names {outside[0]}, which is no foreground class: use raw ids from 1 to 254 without "
            "0 (background, always learnt first) and 255 (void)."
        )


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} {value!r} is unknown: choose one of {', '.join(choices)}.")


def _holds_any(presence: np.ndarray, classes: list[int]) -> np.ndarray:
    """bool (images,): which images hold at least one of the classes, the background not counted."""
    return np.any(presence[:, [class_id for class_id in classes if class_id != BACKGROUND]], axis=1)
