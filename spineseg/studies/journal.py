"""Optuna's journal on a shared disk, mended where a kill or a full disk has cut a line short."""

import json
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


class WholeLinesBackend(JournalFileBackend):
    """A journal file whose half last line is cut off before another is added.

    Optuna adds to what is there, so that half a line and the next one would make a line that no worker can read.

    Args:
        path: the journal.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=JournalFileSymlinkLock(str(path)))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines, all or none of them."""
        self._lock.acquire()
        try:
            whole = _whole_bytes(self._path)
            with self._path.open("r+b") as stream:
                stream.truncate(whole)
                stream.seek(whole)
                try:
                    stream.write("".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode())
                    stream.flush()
                except OSError:
                    stream.truncate(whole)
                    raise
        finally:
            self._lock.release()


def open_journal(path: Path) -> JournalStorage:
    """Open a study's journal; made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(WholeLinesBackend(path.absolute()))


def _whole_bytes(path: Path) -> int:
    """Length up to the end of the last whole line."""
    block = 1 << 16
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        while end > 0:
            start = max(0, end - block)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
