"""log.jsonl: one JSON object per training step."""

import json
from pathlib import Path

from css.files import writing


class Log:
    """Appends lines to a file; a process that is not the main one passes None and writes nothing."""

    def __init__(self, path: Path | None):
        with writing(path):
            self._file = path.open("ab") if path else None

    def write(self, entry: dict) -> None:
        if self._file:
            with writing(self._file.name):
                self._file.write(json.dumps(entry).encode() + b"\n")

    def position(self) -> int:
        """Bytes written so far, all of them on disk."""
        if not self._file:
            return 0
        with writing(self._file.name):
            self._file.flush()
        return self._file.tell()

    def truncate(self, position: int) -> None:
        """Forgets what was written after `position`: steps that a restarted run takes again."""
        if self._file:
            self._file.truncate(position)
            self._file.seek(0, 2)
