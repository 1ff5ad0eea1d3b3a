"""The transactional id of a worker: the same one after a restart, so that what the worker left open before is ended at once.

Enters: a folder that a worker finds again after a restart. It has names in numbered files; a worker takes the first file that no other
worker holds, under a lock that the kernel releases when the process ends. Leaves: a transactional id that no other worker has. Where the
folder cannot be written, the worker uses a new name for this run only; what it leaves open is ended by the worker that takes its
partitions over.
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
    """The transactional id of one worker. The first use of `id` takes a name. Reads and writes small local files; raises nothing."""

    def __init__(self, folder: Path, prefix: str) -> None:
        """`prefix` is the beginning of all ids of the stage."""
        self._folder = folder
        self._prefix = prefix
        self._file = -1
        self._number = 0
        self._name = ""

    @property
    def id(self) -> str:
        """The transactional id. It is also the client id that the group shows for this member."""
        if not self._name:
            try:
                self._take()
            except OSError as error:
                log.warning("transactional id not kept after this run", folder=str(self._folder), error=str(error))
                self._name = _new_name()
        return f"{self._prefix}-{self._number}-{self._name}"

    def renew(self) -> None:
        """Changes the id for good, because another process uses it, for example after the folder was copied."""
        former, self._name = self.id, _new_name()
        if self._file >= 0:
            _write(self._file, self._name)
        log.warning("transactional id taken by another process", former=former, now=self.id)

    def release(self) -> None:
        """Lets the next worker of this folder have the name."""
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
                os.close(file)  # another worker holds it
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
