"""Cityscapes (Cordts et al., CVPR 2016), fine annotations: 19 classes, 2,975 training and 500 validation images."""

from pathlib import Path

from tasks.errors import InputError
from tasks.folder.description import Description
from tasks.folder.layouts import CITYSCAPES as PATTERNS
from tasks.folder.naming import CITYSCAPES, CITYSCAPES_VOID
from tasks.folder.source import Folder

PARTS = [f"{kind}/{split}" for kind in ("leftImg8bit", "gtFine") for split in ("train", "val")]


class Cityscapes(Folder):
    """The official folders leftImg8bit and gtFine at or below `root`, with the masks *_gtFine_labelIds.png.

    Raw class id = training id + 1, in the official order from road to bicycle. Every pixel has one of the 19 classes or
    is void: nothing is background until classes are left out or not yet learnt. Raises InputError if a part is missing.
    """

    def __init__(self, root: Path) -> None:
        folder = _locate(Path(root))
        splits = {
            split: dict(zip(("images", "masks"), (pattern.format(s=split) for pattern in PATTERNS), strict=True))
            for split in ("train", "val")
        }
        super().__init__(folder, Description.model_validate({
            "name": "cityscapes", "names": CITYSCAPES, "background": None, "void": [*CITYSCAPES_VOID, 255], **splits,
        }))  # fmt: skip

    def city(self, split: str, index: int) -> str:
        """Where the image was taken: the folder it lies in."""
        return self.image_id(split, index).partition("/")[0]


def _locate(root: Path) -> Path:
    for folder in (root, root / "cityscapes"):
        if all((folder / part).is_dir() for part in PARTS):
            return folder
    raise InputError(
        f"{root} lacks {', '.join(part for part in PARTS if not (root / part).is_dir())}: unpack the official "
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there."
    )
