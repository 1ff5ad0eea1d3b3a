"""The workers of a stage on one machine: a crashed worker is noticed at once, not only after the session time-out.

Enters: a folder that the workers share, or that a worker finds again after a restart. Each worker keeps its member id in a file there,
under a lock that the kernel releases when the process ends, however it ends. Leaves: the member ids of crashed workers. Guaranteed: a
worker that has a process, even a frozen one, is never taken for crashed. Where no folder is shared, the session time-out remains.
"""

import fcntl
import os
import uuid
from collections.abc import Generator
from pathlib import Path

import structlog

from schemas import private_files

log = structlog.get_logger(__name__)


class LocalMembers:
    """The file of one worker, and its view of the files of the others. All methods read and write small local files. `enter` runs in the
    thread of the group's client, the rest in the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._file = -1
        self._broken = False

    def enter(self, member_id: str) -> None:
        """Records the member id of this worker, after each assignment. Does not raise: a folder that cannot be written is logged once."""
        if self._broken:
            return
        try:
            if self._path is None:
                self._path = self._signed(member_id)
            else:
                _write(self._file, member_id)
        except OSError as error:
            self._broken = True
            log.warning(
                "crashed workers are noticed by the session time-out only", folder=str(self._folder), error=str(error)
            )

    def leave(self) -> None:
        """Removes the file: this worker has left its group, or is about to, so that no other worker needs to remove it."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._path = None

    def crashed(self) -> Generator[str, None, None]:
        """Member ids of workers that have ended without leaving. The file of an id is removed when the next id is asked for, so that an id
        whose handling failed comes again. Meanwhile it is locked, so that no other worker gets it."""
        for path in sorted(self._folder.glob("*.member")):
            if path == self._path:
                continue
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield file.read().decode()
                    path.unlink(missing_ok=True)
            except OSError:
                continue  # its process holds the lock, or another worker has removed it

    def _signed(self, member_id: str) -> Path:
        private_files.make_folder(self._folder)
        path = self._folder / f"{uuid.uuid4().hex}.member"
        unlocked = path.with_suffix(".new")  # no other worker looks at it before it is locked
        self._file = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write(self._file, member_id)
        return unlocked.rename(path)


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
