"""A server of the stack: how it is started, and the process it becomes.

Enters: a Service, which is data (commands, folder, URL, probe). Leaves: a Child with a pid, a log file and a version. Guaranteed: the
child is in its own process group, writes its output to `<folder>/<name>.log` and its temporary files below `<folder>/tmp`, dies with
the process that started it, and a start that fails raises ServiceFailed with one sentence that names the log and its last lines.
Start children from a long-lived thread: Linux sends the death signal when the *thread* that forked ends.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas import private_files
from schemas.environment import foreign
from schemas.secret_masking import masked
from stack.fork_server import Start
from stack.forks import Forked, Forks
from stack.launch import ServiceFailed, wrapped


class NotYet(Exception):
    """Raised by a probe while its server does not answer."""


@dataclass(frozen=True, kw_only=True)
class Unprivileged:
    """How a server gives up root: stack/unprivileged.py."""

    user: int
    # Folders it comes to own. Root opens no file in there by name: a name may be a link that the server made.
    owned: Sequence[Path]
    # Folders with its programs.
    reached: Sequence[Path]
    # It calls unprivileged.drop() itself, when it has read its own code; nobody else may be allowed to.
    drops_itself: bool = False


@dataclass(frozen=True, kw_only=True)
class Service:
    """One server as data; starting it is the business of Child."""

    name: str
    folder: Path
    url: str = field(repr=False)
    # Absolute command lines; all but the last prepare and end, the last one is the server.
    steps: Sequence[Sequence[str]]
    # Returns the server's version as soon as it answers, raises anything until then; blocks two seconds at most.
    probe: Callable[[], str]
    # Settings (schemas.settings names) that lead its clients to it.
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    # One of our own programs: it gets our settings, secrets among them, from the environment of whoever starts it.
    ours: bool = False
    # Its last step is `python -m ...`, which a fork server may become.
    forked: bool = False
    # Of a program that serves several things: what -> URL.
    parts: Mapping[str, str] = field(default_factory=dict, repr=False)
    # What it gets when its parent dies: SIGKILL, unless that would leave something behind.
    death_signal: int = signal.SIGKILL
    # What ends it when its data are to be deleted: nothing needs to be brought in order then.
    drop_signal: int = signal.SIGKILL
    # What becomes of root's rights when root starts it; None: it keeps them.
    unprivileged: "Unprivileged | None" = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


class Child:
    """The running process of a Service. Not thread-safe; one owner starts, awaits and stops it."""

    def __init__(self, service: Service, forks: Forks | None = None) -> None:
        self.service = service
        self.version = ""
        self.started_at = 0  # Unix milliseconds
        self._forks = forks
        self._process: subprocess.Popen[bytes] | Forked | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """None while it runs (or was never started)."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Starts the process, again if it ended, and returns at once; several may be started before the first is awaited. A fork server
        that still imports is waited for. Raises ServiceFailed when it cannot start anything."""
        self._signal(signal.SIGKILL)  # what an earlier life may have left in its group
        service = self.service
        tmp = private_files.make_folder(service.folder / "tmp")
        env = {**(os.environ if service.ours else foreign()), "TMPDIR": str(tmp), **service.env}
        if self._forks is not None:
            private_files.append_to(service.log).close()  # made for its owner only, whoever writes to it then
            self._process = self._forks.begin(
                Start(
                    name=service.name,
                    argv=list(service.steps[-1][2:]),
                    env=env,
                    log=str(service.log),
                    death_signal=int(service.death_signal),
                )
            )
        else:
            self._process = self._opened(env)
        self.started_at = time.time_ns() // 1_000_000

    def _opened(self, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        service = self.service
        rights = self._rights() if os.geteuid() == 0 else None
        with private_files.append_to(service.log) as log:
            return subprocess.Popen(
                wrapped(service.steps, death_signal=service.death_signal, unprivileged=rights),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
                umask=private_files.UMASK,
            )

    def wait(self, limit_seconds: float = 60.0, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Blocks until the server answers its probe or `cancelled`; raises ServiceFailed when it ends or the limit passes."""
        deadline = time.monotonic() + limit_seconds
        while not cancelled() and not self.look(deadline, limit_seconds):
            time.sleep(0.05)

    def look(self, deadline: float, limit_seconds: float) -> bool:
        """Whether the server answers its probe; raises ServiceFailed when it has ended, or does not and the deadline is over."""
        if self.returncode is not None:
            raise ServiceFailed(
                f"{self.service.name} ended with {self.returncode} before it answered; {self.log_tail()}"
            )
        try:
            self.version = self.service.probe()
        except Exception as error:  # noqa: BLE001  # a probe may fail in any way its client library knows
            if time.monotonic() > deadline:
                self.stop(timeout_seconds=2)
                name, url = self.service.name, masked(self.service.url)
                raise ServiceFailed(
                    f"{name} did not answer on {url} within {limit_seconds:.0f} s ({masked(str(error))}); {self.log_tail()}"
                ) from None
            return False
        return True

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ends the process group: SIGTERM, then SIGKILL for what is left. Does nothing when it never ran."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Sends the signal and returns; used to end several children at once."""
        if self.returncode is None:
            self._signal(number)

    def log_tail(self, lines: int = 5) -> str:
        """Where the log is, and its last lines, as the end of a sentence."""
        try:
            text = self.service.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        tail = masked(" | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()))
        return f"log {self.service.log} ends: {tail or '(empty)'}"

    def _rights(self) -> dict[str, Any] | None:
        """What stack/child.py must know to give up root."""
        rights, folder = self.service.unprivileged, self.service.folder
        if rights is None:
            return None
        return {
            "user": rights.user,
            "owned": [str(each) for each in rights.owned],
            "reached": [str(each) for each in rights.reached],
            "ours": [str(each) for each in (folder, folder.parent, folder.parent.parent) if _is_ours(each, folder)],
            "drops_itself": rights.drops_itself,
        }

    def _signal(self, number: int) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def nobody() -> int | None:
    """The user id that servers get when root starts them; None: they stay what they are."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def as_nobody(folder: Path, *reached: Path, drops_itself: bool = False) -> Unprivileged | None:
    """What a server needs that owns `data` and `tmp` of its folder and nothing else, and can start from `reached`."""
    user = nobody()
    if user is None:
        return None
    owned = [folder / "data", folder / "tmp"]
    return Unprivileged(user=user, owned=owned, reached=reached, drops_itself=drops_itself)


def _is_ours(each: Path, folder: Path) -> bool:
    """Whether a folder above a service's is the stack's own: that of the stack, and the one that all stacks are in."""
    return each != folder.parent.parent or each.name == ".chat4all"
