"""Kills workers (SIGKILL) on purpose while a load runs, one after the other, at equal intervals.

Enters: the names of the workers, in order, and a function that finds the process id of a worker. Leaves: what was killed and when.
Guaranteed: it kills only the named workers.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PidOf = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill that happened. `after_seconds` counts from the start of the load."""

    name: str
    pid: int
    after_seconds: float


@dataclass(slots=True)
class WorkerKiller:
    """Kills each of `names` once within `seconds`, from a thread of its own. `pid_of` returns the current process id of a worker, or
    None; it is called in that thread."""

    names: Sequence[str]
    seconds: float
    pid_of: PidOf
    kills: list[Kill] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        if self.names:
            self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Kills no further worker, and waits for the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        for number, name in enumerate(self.names, start=1):
            due = began + self.seconds * number / (len(self.names) + 1)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            pid = self._await_pid(name)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.kills.append(Kill(name, pid, time.monotonic() - began))

    def _await_pid(self, name: str) -> int | None:
        while not self._stopped.is_set():
            pid = self.pid_of(name)
            if pid:
                return pid
            self._stopped.wait(0.1)
        return None
