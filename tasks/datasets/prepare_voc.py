"""Downloads VOC 2012 and SBD and builds the augmented segmentation set: 10,582 training and 1,449 validation images.

The augmented masks are VOC's own where VOC has one, and those of the Semantic Boundaries Dataset (Hariharan et al.,
ICCV 2011) for the other images. Every step skips what an earlier run finished; the lists are written last, so a run
that was killed never looks finished.
"""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from scipy.io import loadmat
from tqdm import tqdm

from tasks.datasets.download import content_of, disk_errors, download
from tasks.datasets.voc import IMAGES, LISTS, MASKS, locate, voc_palette
from tasks.errors import InputError

VOC = PurePosixPath("VOCdevkit/VOC2012")
SBD = PurePosixPath("benchmark_RELEASE/dataset")


@dataclass(frozen=True)
class Sources:
    """Where the two archives come from, their MD5 sums, and how many images the finished set has."""

    voc_url: str
    voc_md5: str
    sbd_url: str
    sbd_md5: str
    train_images: int
    val_images: int


OFFICIAL = Sources(
    voc_url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    voc_md5="6cd6e144f989b92b3379bac3b3de84fd",
    sbd_url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    sbd_md5="82b4d87ceb2ed10f6038a1cba92111cb",
    train_images=10582,
    val_images=1449,
)


def prepare(root: Path, sources: Sources = OFFICIAL) -> None:
    """Makes root a data root that `tasks.datasets.voc.Voc` reads; does nothing if it is one already.

    Raises InputError if a download fails or has the wrong checksum, if root cannot be written, or if the archives do
    not hold exactly the expected images.
    """
    if _is_complete(root):
        print(f"{root} already holds VOC 2012 with augmented masks; nothing to do.")
        return
    with disk_errors(root, "6 GB"):
        downloads = root / "downloads"
        voc_archive = download(sources.voc_url, sources.voc_md5, downloads)
        sbd_archive = download(sources.sbd_url, sources.sbd_md5, downloads)
        for part in (IMAGES, MASKS):
            (root / part).mkdir(parents=True, exist_ok=True)
        with tarfile.open(voc_archive, "r:") as voc:
            members = {PurePosixPath(member.name): member for member in voc if member.isfile()}
            train, val = (
                _read_ids(voc, members, VOC / f"ImageSets/Segmentation/{name}.txt") for name in ("train", "val")
            )
            _extract(voc, members, VOC / "SegmentationClass", train | val, root / MASKS, ".png")
            augmented = _build_sbd_masks(sbd_archive, root / MASKS)
            train_aug = (train | augmented) - val
            _require_counts(train_aug, val, sources, downloads)
            _extract(voc, members, VOC / "JPEGImages", train_aug | val, root / IMAGES, ".jpg")
        # Last train_aug.txt: an official VOC folder already has a val.txt, so this is the file that says "finished".
        _write_list(root / LISTS["test"], val)
        _write_list(root / LISTS["train"], train_aug)
    print(f"{root} is ready: {len(train_aug)} training and {len(val)} test images. {downloads} may be deleted.")


def _is_complete(root: Path) -> bool:
    try:
        locate(root)
    except InputError:
        return False
    return True


def _read_ids(tar: tarfile.TarFile, members: dict[PurePosixPath, tarfile.TarInfo], name: PurePosixPath) -> set[str]:
    if name not in members:
        raise InputError(f"archive {tar.name!s} holds no {name}: replace it by the official archive.")
    return set(content_of(tar, members[name]).decode().split())


def _extract(
    tar: tarfile.TarFile,
    members: dict[PurePosixPath, tarfile.TarInfo],
    source: PurePosixPath,
    ids: Iterable[str],
    target: Path,
    suffix: str,
) -> None:
    """Unpacks one file for each id into the folder target, except files that are there in full length."""
    for image_id in tqdm(sorted(ids), f"unpacking {target.name}", unit="file", disable=None):
        name = f"{image_id}{suffix}"
        if source / name not in members:
            raise InputError(f"archive {tar.name!s} holds no {source / name}: replace it by the official archive.")
        member = members[source / name]
        file = target / name
        if not (file.is_file() and file.stat().st_size == member.size):
            file.write_bytes(content_of(tar, member))  # under a name of our own: no path of the archive is used


def _build_sbd_masks(archive: Path, target: Path) -> set[str]:
    """Writes a palette PNG for each SBD annotation without a mask yet; returns the ids of SBD's two lists.

    VOC's own masks must be in target before, as they take precedence.
    One pass in the archive's own order, because seeking in a compressed archive means unpacking it again.
    """
    lists: dict[str, set[str]] = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tqdm(tar, f"building {target.name} from SBD", unit="file", disable=None):
            path = PurePosixPath(member.name)
            if path in (SBD / "train.txt", SBD / "val.txt"):
                lists[path.stem] = set(content_of(tar, member).decode().split())
            elif path.parent == SBD / "cls" and path.suffix == ".mat":
                mask = target / f"{path.stem}.png"
                if not mask.exists():
                    _write_mask(mask, _read_mat(content_of(tar, member)))
    if len(lists) < 2:
        raise InputError(f"archive {archive} lacks {SBD}/train.txt or val.txt: replace it by the official archive.")
    ids = lists["train"] | lists["val"]
    for image_id in sorted(ids):
        if not (target / f"{image_id}.png").exists():
            raise InputError(
                f"archive {archive} holds no {SBD}/cls/{image_id}.mat: replace it by the official archive."
            )
    return ids


def _read_mat(content: bytes) -> np.ndarray:
    """Class ids, uint8 (H, W), of one SBD annotation: the field Segmentation of the struct GTcls."""
    return loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"].astype(np.uint8)


def _write_mask(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    temporary = path.with_suffix(".tmp")
    image.save(temporary, format="PNG")
    temporary.replace(path)


def _require_counts(train_aug: set[str], val: set[str], sources: Sources, downloads: Path) -> None:
    found, expected = (len(train_aug), len(val)), (sources.train_images, sources.val_images)
    if found != expected:
        raise InputError(
            f"the archives in {downloads} list {found[0]} training and {found[1]} test images instead of {expected[0]} "
            f"and {expected[1]}: delete that folder and run the command again."
        )


def _write_list(path: Path, ids: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{image_id}\n" for image_id in sorted(ids)))
    temporary.replace(path)
