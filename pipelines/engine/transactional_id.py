"""The name under which a worker's transactions go: the same one after a restart, so that what its former self left open ends at once.

In: a folder that a worker finds again when it is started again. Names lie there in numbered files; a worker holds the first that nobody
holds, under a lock that the kernel lets go of when the process is no more. Out: a transactional id that no other worker has. Where the
folder cannot be written, a name is made up for this run, and what it leaves open is ended by whoever takes its partitions over.
"""

import fcntl
import os
import uuid
from itertools import count
from pathlib import Path

import structlog

from schemas import private_files

log = structlog.get_logger(__name__)


class TransactionalId:
    """One worker's. `id` takes a name when it is asked for first."""

    def __init__(self, folder: Path, prefix: str) -> None:
        """`prefix` is what all names of the stage begin with."""
        self._folder = folder
        self._prefix = prefix
        self._file = -1
        self._number = 0
        self._name = ""

    @property
    def id(self) -> str:
        """The transactional id, and the name the group's members are told."""
        if not self._name:
            try:
                self._take()
            except OSError as error:
                log.warning("no name that outlives this run", folder=str(self._folder), error=str(error))
                self._name = _new_name()
        return f"{self._prefix}-{self._number}-{self._name}"

    def renew(self) -> None:
        """Somebody else uses this one's name, as after a copy of the folder: from now on this worker has another one."""
        former, self._name = self.id, _new_name()
        if self._file >= 0:
            _write(self._file, self._name)
        log.warning("transactional id taken by somebody else, another one from now on", former=former, now=self.id)

    def release(self) -> None:
        """Whoever starts next may have the name."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self) -> None:
        private_files.make_folder(self._folder)
        for number in count():
            file = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)  # a living worker's
                continue
            self._file, self._number = file, number
            self._name = os.pread(file, 64, 0).decode("ascii", "replace").strip()
            if not self._name.isalnum():
                self._name = _new_name()
                _write(file, self._name)
            return


def _new_name() -> str:
    return uuid.uuid4().hex[:12]


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
