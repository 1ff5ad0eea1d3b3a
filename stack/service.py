"""A server of the stack: how it is started, and the process it becomes.

Enters: a Service, which is data (commands, folder, URL, probe). Leaves: a Child with a pid, a log file and a version. Guaranteed: the
child is in its own process group, writes its output to `<folder>/<name>.log` and its temporary files below `<folder>/tmp`, dies with
the process that started it, and a start that fails raises ServiceFailed with one sentence that names the log and its last lines.
Start children from a long-lived thread: Linux sends the death signal when the *thread* that forked ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.environment import without_settings

WRAPPER = Path(__file__).with_name("child.py")


class ServiceFailed(Exception):
    """A server that did not start, or ended; the sentence says which, where its log is and what it said last."""


class NotYet(Exception):
    """Raised by a probe while its server does not answer."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One server as data; starting it is the business of Child."""

    name: str
    folder: Path
    url: str
    # Absolute command lines; all but the last prepare and end, the last one is the server.
    steps: Sequence[Sequence[str]]
    # Returns the server's version as soon as it answers, raises anything until then; blocks two seconds at most.
    probe: Callable[[], str]
    # Settings (schemas.settings names) that lead its clients to it.
    settings: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    # Of a program that serves several things: what -> URL.
    parts: Mapping[str, str] = field(default_factory=dict)
    # What it gets when its parent dies: SIGKILL, unless that would leave something behind.
    death_signal: int = signal.SIGKILL
    # Whether it is a program of ours, which may know our settings; a server gets none of them in its environment.
    knows_settings: bool = False
    # A server that refuses to run as root is given this user id when we are root.
    user: int | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


class Child:
    """The running process of a Service. Not thread-safe; one owner starts, awaits and stops it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.version = ""
        self.started_at = 0  # Unix milliseconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """None while it runs (or was never started)."""
        return self._process.poll() if self._process else None

    def start(self, *, waiting: bool = False) -> None:
        """Starts the process, again if it ended, and returns at once; several may be started before the first is awaited. One that is
        `waiting` finds its standard input open until `go_on`, and whatever program reads it to its end waits as long."""
        self._signal(signal.SIGKILL)  # what an earlier life may have left in its group
        service = self.service
        tmp = service.folder / "tmp"
        tmp.mkdir(parents=True, exist_ok=True)
        task = {
            "parent": os.getpid(),
            "death_signal": int(service.death_signal),
            "user": service.user if os.geteuid() == 0 else None,
            "folder": str(service.folder),
            "steps": [list(step) for step in service.steps],
        }
        with service.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(WRAPPER), json.dumps(task)],
                stdin=subprocess.PIPE if waiting else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment(), "TMPDIR": str(tmp), **service.env},
                start_new_session=True,
            )
        self.started_at = time.time_ns() // 1_000_000

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) if self.service.knows_settings else without_settings()

    def go_on(self) -> None:
        """Lets a process go on that was started waiting."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self, limit_seconds: float = 60.0, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Blocks until the server answers its probe or `cancelled`; raises ServiceFailed when it ends or the limit passes."""
        deadline = time.monotonic() + limit_seconds
        while not cancelled() and not self.look(deadline, limit_seconds):
            time.sleep(0.05)

    def look(self, deadline: float, limit_seconds: float) -> bool:
        """Whether the server answers its probe; raises ServiceFailed when it has ended, or does not and the deadline is over."""
        if self.returncode is not None:
            raise ServiceFailed(
                f"{self.service.name} ended with {self.returncode} before it answered; {self.last_words()}"
            )
        try:
            self.version = self.service.probe()
        except Exception as error:  # noqa: BLE001  # a probe may fail in any way its client library knows
            if time.monotonic() > deadline:
                self.stop(patience_seconds=2)
                name, url = self.service.name, self.service.url
                raise ServiceFailed(
                    f"{name} did not answer on {url} within {limit_seconds:.0f} s ({error}); {self.last_words()}"
                ) from None
            return False
        return True

    def stop(self, patience_seconds: float = 10.0) -> None:
        """Ends the process group: SIGTERM, then SIGKILL for what is left. Does nothing when it never ran."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """Sends SIGTERM and returns; used to end several children at once."""
        if self.returncode is None:
            self._signal(signal.SIGTERM)

    def last_words(self, lines: int = 5) -> str:
        """Where the log is, and its last lines, as the end of a sentence."""
        try:
            text = self.service.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        tail = " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
        return f"log {self.service.log} ends: {tail or '(empty)'}"

    def _signal(self, number: int) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
