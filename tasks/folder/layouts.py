"""Where images, masks and lists lie in folders as people and tools make them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path

from tasks.errors import InputError
from tasks.folder.description import FILE, Split
from tasks.folder.pairs import find, folder_of

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "photos", "leftImg8bit", "originals")
MASKS = ("masks", "mask", "SegmentationClassAug", "SegmentationClass", "labels", "label", "annotations", "gt", "gtFine")
TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "test")
# Folders of one split {s}; the suffixes are those of tools that write masks beside the images.
NESTED = (
    ("{i}/{s}", "{m}/{s}"),
    ("{s}/{i}", "{s}/{m}"),
    ("{s}_{i}", "{s}_{m}"),
    ("{s}", "{s}_{m}"),
    ("{s}", "{s}annot"),
)
SUFFIXES = ("", "_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_L", "_seg")
LISTS = (  # of training and validation
    ("{t}.txt", "{v}.txt"),
    ("splits/{t}.txt", "splits/{v}.txt"),
    ("ImageSets/Segmentation/{t}_aug.txt", "ImageSets/Segmentation/{v}.txt"),
    ("ImageSets/Segmentation/{t}.txt", "ImageSets/Segmentation/{v}.txt"),
)

CITYSCAPES = ("leftImg8bit/{s}/{{}}_leftImg8bit", "gtFine/{s}/{{}}_gtFine_labelIds")


def splits_of(root: Path) -> dict[str, Split]:
    """The split "train" and, where the folder tells, "val". Raises InputError if there are no images with masks."""
    for layout in (_cityscapes, _roboflow, _nested, _flat):
        splits = layout(root)
        if splits:
            return splits
    raise InputError(
        f"{root} holds no images with masks of the same names in folders such as images and masks: see "
        f"docs/own-data.md for the layouts that are found, or write {FILE} by hand; masks as JPEG do not count, as it "
        "changes values; json files and masks in colours are made into such a folder by `css data convert`."
    )


def _cityscapes(root: Path) -> dict[str, Split]:
    images, masks = CITYSCAPES
    return _by_split(root, lambda split: [(images.format(s=split), masks.format(s=split))])


def _roboflow(root: Path) -> dict[str, Split]:
    """Masks beside the images: train/x.jpg and train/x_mask.png, with train/_classes.csv."""
    if not any((root / name / "_classes.csv").is_file() for name in TRAIN):
        return {}
    return _by_split(root, lambda split: [(split, f"{split}/{{}}_mask")])


def _nested(root: Path) -> dict[str, Split]:
    return _by_split(root, lambda split: _nested_candidates(root, split))


def _nested_candidates(root: Path, split: str) -> Iterator[tuple[str, str]]:
    for (images, masks), i, m in product(NESTED, IMAGES, MASKS):
        yield images.format(i=i, s=split), masks.format(m=m, s=split)


def _flat(root: Path) -> dict[str, Split]:
    """Images and masks of all splits in two folders, or in one; the splits are lists, if there are any."""
    found = _first(root, [*product(IMAGES, MASKS), (".", ".")])
    if found is None:
        return {}
    for patterns, t, v in product(LISTS, TRAIN, VAL):
        lists = {key: pattern.format(t=t, v=v) for key, pattern in zip(("train", "val"), patterns, strict=True)}
        if all((root / file).is_file() for file in lists.values()):
            return {key: found.model_copy(update={"list": file}) for key, file in lists.items()}
    return {"train": found}


def _by_split(root: Path, candidates: Callable[[str], Iterable[tuple[str, str]]]) -> dict[str, Split]:
    """The first layout that exists for a training split, and the same one for validation."""
    splits = {}
    for key, names in (("train", TRAIN), ("val", VAL)):
        found = next(filter(None, (_first(root, candidates(name)) for name in names)), None)
        if found is not None:
            splits[key] = found
    return splits if "train" in splits else {}


def _first(root: Path, candidates: Iterable[tuple[str, str]]) -> Split | None:
    for images, masks in candidates:
        if not all((root / folder_of(pattern)).is_dir() for pattern in (images, masks)):
            continue
        for suffix in SUFFIXES if "{}" not in masks else ("",):
            split = Split(images=images, masks=f"{masks}/{{}}{suffix}" if suffix else masks)
            if find(root, split).paired:
                return split
    return None
