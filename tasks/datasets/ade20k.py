"""ADE20K, SceneParsing benchmark (Zhou et al., CVPR 2017): 150 classes, 20,210 training and 2,000 validation images."""

from pathlib import Path

from tasks.errors import InputError
from tasks.folder.description import Description
from tasks.folder.naming import read_object_info
from tasks.folder.source import Folder

FOLDER = "ADEChallengeData2016"
TABLE = "objectInfo150.txt"
CLASSES = 150
SPLITS = {"train": "training", "val": "validation"}


class Ade20k(Folder):
    """The official folders below `root`: images/training, annotations/training, the same of validation, and the table.

    Mask values are raw class ids: 0 ("other") is the background, as in MiB and PLOP, and nothing is void. Raises
    InputError if a part is missing.
    """

    def __init__(self, root: Path) -> None:
        folder = _locate(Path(root))
        names = read_object_info(folder / TABLE)
        if sorted(names) != list(range(1, CLASSES + 1)):
            raise InputError(f"{folder / TABLE} does not name the classes 1 to {CLASSES}: restore the official file.")
        splits = {key: {"images": f"images/{split}", "masks": f"annotations/{split}"} for key, split in SPLITS.items()}
        super().__init__(folder, Description.model_validate({"name": "ade20k", "names": names, "void": [], **splits}))


def _locate(root: Path) -> Path:
    """The folder at or below root that holds all parts."""
    parts = [TABLE, *(f"{kind}/{split}" for kind in ("images", "annotations") for split in SPLITS.values())]
    for folder in (root, root / FOLDER):
        if all((folder / part).exists() for part in parts):
            return folder
    raise InputError(f"{root} holds no {FOLDER} with {', '.join(parts)}: unpack the benchmark's {FOLDER}.zip there.")
