"""Which version of the toolkit this is."""

import subprocess
from pathlib import Path

import css


def version() -> str:
    """As in pyproject.toml."""
    return css.__version__


def commit() -> str | None:
    """Short commit of the checkout that the toolkit runs from, with "+" if files differ; None where there is none."""
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
