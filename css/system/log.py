"""log.jsonl: one JSON object per training step."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

from css.system.files import writing
from tasks import InputError


class Log:
    """Appends lines to a file; a process that is not the main one passes None and writes nothing.

    `on_entry` is shown every entry that is written, for example by a tracker.
    """

    def __init__(self, path: Path | None, on_entry: Callable[[dict], None] | None = None) -> None:
        with writing(path):
            self._file = path.open("ab") if path else None
        self._on_entry = on_entry
        self._lock()
        self._end: int | None = None  # where the next line goes, if the file is longer

    def write(self, entry: dict) -> None:
        """Appends one line. Raises InputError if the disk is full."""
        if self._file:
            with writing(self._file.name):
                if self._end is not None:
                    self._file.truncate(self._end)
                    self._end = None
                self._file.write(json.dumps(entry).encode() + b"\n")
            if self._on_entry:
                self._on_entry(entry)

    def position(self) -> int:
        """Bytes written so far, all of them on disk."""
        if not self._file:
            return 0
        if self._end is not None:
            return self._end
        with writing(self._file.name):
            self._file.flush()
            return self._file.seek(0, 2)

    def truncate(self, position: int) -> None:
        """The next line goes to `position`: steps that a restarted run takes again are forgotten then, and not earlier.

        A restart rewinds to the end of the last task first and to its last checkpoint, which is further on, then.
        """
        if self._file:
            self._end = min(position, self._file.seek(0, 2))

    def _lock(self) -> None:
        """Held until this process ends or forgets the log. Not a flock: the workers of a killed run would keep that."""
        if not self._file:
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = Path(self._file.name).parent
            raise InputError(f"{folder} is in use by another process; wait for it, or choose another --name.") from None
