"""Fetching an archive, with its checksum; and errors of the disk as sentences."""

import http.client
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import InputError


def download(url: str, md5: str, folder: Path) -> Path:
    """The verified archive in folder, downloaded unless it lies there already.

    Raises InputError if it cannot be fetched, or if its checksum is another one.
    """
    from torchvision.datasets.utils import check_integrity, download_url  # slow import, needed by `css prepare` only

    target = folder / url.rsplit("/", 1)[-1]
    way_out = f"run the command again, or fetch the file by other means and save it as {target}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_url(url, str(folder), md5=md5)
    except (OSError, RuntimeError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, RuntimeError) and not check_integrity(str(target), md5):
            raise InputError(f"{target} from {url} is damaged, its MD5 is not {md5}: {way_out}.") from error
        raise InputError(f"{url} cannot be downloaded to {target} ({error}): {way_out}.") from error
    return target


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo | str) -> bytes:
    """The bytes of a file in an archive. Raises KeyError if it is not there, InputError if it is a folder."""
    file = tar.extractfile(member)
    if file is None:
        raise InputError(f"archive {tar.name!s} holds a folder where a file should be: get the official archive.")
    return file.read()


@contextmanager
def disk_errors(root: Path, space: str) -> Iterator[None]:
    """Turns a full or read-only disk and an archive with unsafe entries into a sentence; `space` is what is needed."""
    try:
        yield
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{root} cannot be prepared ({error}): make it writable with about {space} free and run the command again, "
            "which goes on where this run stopped."
        ) from error
