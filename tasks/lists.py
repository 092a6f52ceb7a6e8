"""Lists of images: text files with one image a line, and the files of images and masks that a line names."""

import codecs
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from tasks.errors import InputError

# A name without an ending is that of a file with one of these, in small or capital letters; the first one wins. Masks
# of the last four are refused by those who read them.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".webp", ".gif")


class Item(NamedTuple):
    """An image and its mask, as paths below the data root or absolute ones; strings, as they travel to every worker."""

    name: str  # unique in its list
    image: str
    mask: str


def read_list(path: Path, root: Path, images: str, masks: str) -> list[Item]:
    """What a list names: on every line an image id, or the paths of image and mask.

    An id is the path of an image below the folder `images` of the data root, with its ending or without; its mask has
    the same id below `masks`. Paths are relative to the data root, with a "/" in front or not, or absolute.

    Raises InputError for a list that cannot be read, is empty, names an image twice, or an id of two files. Whether
    the files are there is left to those who read them.
    """
    layout = _Layout(root, images, masks)
    lines = [line.strip().replace("\\", "/") for line in text_of(path, "image list").splitlines()]
    pairs = [layout.pair(line, f"line {number} of image list {path}") for number, line in enumerate(lines, 1) if line]
    if not pairs:
        raise InputError(f"image list {path} is empty: restore it, one image id a line.")
    items = [Item(name, *pair) for name, pair in zip(_names([image for image, _ in pairs], images), pairs, strict=True)]
    twice = [image for image, count in Counter(item.image for item in items).items() if count > 1]
    if twice:
        raise InputError(f"image list {path} names {twice[0]} more than once: keep one line for each image.")
    return items


def require_apart(train: Sequence[Item], test: Sequence[Item], train_list: Path, test_list: Path) -> None:
    """Raises InputError if images are in both lists: their scores would say nothing of unseen images."""
    learnt = {item.image for item in train}
    shared = [item.name for item in test if item.image in learnt]
    if shared:
        raise InputError(
            f"{len(shared)} of the {len(test)} images of {test_list} are in {train_list} as well, for example "
            f"{shared[0]}: take them off one of the two lists."
        )


class _Layout:
    """The folders of images and masks, and what lies in them; each folder is listed once."""

    def __init__(self, root: Path, images: str, masks: str) -> None:
        self.root, self.images, self.masks = root, images, masks
        self._roots = [f"{os.path.normpath(root.absolute())}/", f"{root.resolve()}/"]
        self._listed: dict[str, dict[str, list[str]]] = {}  # by folder: file names by the name without ending

    def pair(self, line: str, where: str) -> tuple[str, str]:
        """Image and mask that a line names; InputError beginning with `where` if it cannot be understood."""
        words = [self._located(word) for word in line.split()]
        if len(words) == 2 and all(map(self._exists, words)):
            return words[0], words[1]
        by_id = self._by_id(line, where)
        if len(words) == 1 or self._exists(by_id[0]):  # ids may have spaces
            return by_id
        if len(words) == 2:
            return words[0], words[1]
        raise InputError(f"{where} is neither an image id nor the paths of image and mask.")

    def _by_id(self, line: str, where: str) -> tuple[str, str]:
        path = self._located(line)
        if path.startswith("/"):
            raise InputError(
                f"{where} names {path} outside of {self.root / self.images}: write the path of its mask beside it."
            )
        name = path.removeprefix(f"{self.images}/")
        stem, ending = _split_ending(name)
        if ending.lower() in IMAGE_ENDINGS:
            image = f"{self.images}/{name}"
        else:
            stem, image = name, self._find(self.images, name, IMAGE_ENDINGS)
        return image, self._find(self.masks, stem, MASK_ENDINGS)

    def _located(self, path: str) -> str:
        """Relative to the data root; absolute if it begins with "/" and its folder is there, but not below the root."""
        for root in self._roots:
            path = path.removeprefix(root)
        relative = os.path.normpath(path.lstrip("/"))
        elsewhere = path.startswith("/") and self._in(os.path.split(path)[0]) and not self._exists(relative)
        return os.path.normpath(path) if elsewhere else relative

    def _exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self._in(folder).get(_split_ending(name)[0], [])

    def _find(self, folder: str, stem: str, endings: Sequence[str]) -> str:
        """The file of this name without its ending; if there is none, the usual one, which will be missing."""
        folder, stem = os.path.split(f"{folder}/{stem}")
        found = [name for name in self._in(folder).get(stem, []) if _split_ending(name)[1].lower() in endings]
        usual = stem + endings[0]
        if len(found) > 1 and usual not in found:
            raise InputError(
                f"{self.root / folder / stem} may be {' or '.join(sorted(found))}: remove one, or write the paths of "
                "image and mask in the list."
            )
        return f"{folder}/{found[0] if len(found) == 1 else usual}"

    def _in(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            listed = self._listed[folder] = {}
            with suppress(OSError):
                for path in (self.root / folder).iterdir():
                    listed.setdefault(_split_ending(path.name)[0], []).append(path.name)
        return self._listed[folder]


def text_of(path: Path, what: str) -> str:
    """The content of a text file; `what` names it in the sentence of an error.

    UTF-8, with a byte order mark or without, or UTF-16 with one, as some editors and shells write it.
    """
    try:
        content = path.read_bytes()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if marked else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {path} cannot be read ({error}): restore it as a text file in UTF-8.") from error


def _names(paths: Sequence[str], images: str) -> list[str]:
    """What to call each image: its path below the folder of images, without the ending where that is unique."""
    short = [_split_ending(path.removeprefix(f"{images}/"))[0] for path in paths]
    count = Counter(short)
    return [name if count[name] == 1 else path for name, path in zip(short, paths, strict=True)]


def _split_ending(path: str) -> tuple[str, str]:
    ending = PurePath(path).suffix
    return path.removesuffix(ending), ending
