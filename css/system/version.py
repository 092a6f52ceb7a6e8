"""Which version of the toolkit this is."""

import re
import subprocess
from pathlib import Path

import css
from tasks.errors import InputError

TOOLKIT = "continual-segmentation"  # as a package, and among the versions in results.json


def version() -> str:
    """As in pyproject.toml."""
    return css.__version__


def require_no_newer(folder: Path, made_by: object) -> None:
    """Raises InputError if a newer version than this one made a run folder; older ones may not say which they are."""
    if _numbers(made_by) > _numbers(version()):
        raise InputError(
            f"{folder} was made by version {made_by} of this toolkit, and this is {version()}: "
            "update it to open the folder."
        )


def _numbers(text: object) -> list[int]:
    """Of the first word, so that a commit after it does not count."""
    return [int(part) for part in re.findall(r"\d+", str(text).partition(" ")[0])[:3]]


def commit() -> str | None:
    """The short commit of the checkout that the toolkit runs from, "+" if files differ; None where there is none."""
    root = Path(css.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = _git(root, "rev-parse", "--short=9", "HEAD")
        return f"{found}+" if _git(root, "status", "--porcelain", "--untracked-files=no") else found
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
