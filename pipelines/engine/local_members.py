"""The roll of a stage's workers on one machine, by which a death is known at once instead of after the session time-out.

In: a folder the workers share, or that a worker finds again when it is started again; each keeps its id in the group in a file there,
under a lock that the kernel lets go of when the process is no more, however it ended. Out: the ids of the dead. Guaranteed: nobody is
taken for dead who has a process, also a frozen one. Where nothing is shared, the session time-out remains.
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
    """One worker's line in the roll, and its look at the others'."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._file = -1
        self._broken = False

    def enter(self, member_id: str) -> None:
        """Writes down under which id the group knows this worker now."""
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
                "no roll: a death is known by the session time-out only", folder=str(self._folder), error=str(error)
            )

    def leave(self) -> None:
        """This worker has left its group, or is about to: nobody needs to do it in its stead."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._path = None

    def crashed(self) -> Generator[str, None, None]:
        """Ids of workers that have ended without leaving. Each is struck off when the next is asked for, so that one whose death could
        not be told comes again; nobody else is given it meanwhile."""
        for path in sorted(self._folder.glob("*.member")):
            if path == self._path:
                continue
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield file.read().decode()
                    path.unlink(missing_ok=True)
            except OSError:
                continue  # its process holds the lock, or somebody else has struck it off

    def _signed(self, member_id: str) -> Path:
        private_files.make_folder(self._folder)
        path = self._folder / f"{uuid.uuid4().hex}.member"
        unlocked = path.with_suffix(".new")  # nobody looks at it before it is locked
        self._file = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write(self._file, member_id)
        return unlocked.rename(path)


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
