"""A server of the stack as data (Service), and the process that runs it (Child).

Enters: a Service: commands, folder, URL, probe. Leaves: a Child with a pid, a log file and a version. Guaranteed: the child has its own
process group, writes its output to `<folder>/<name>.log` and its temporary files below `<folder>/tmp`, and ends with the process that
started it. A start that fails raises ServiceFailed with one sentence that names the log and quotes its last lines. Start children from a
long-lived thread: Linux sends the parent-death signal when the *thread* that forked ends.
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
    """A probe raises it while its server is not ready."""


@dataclass(frozen=True, kw_only=True)
class Unprivileged:
    """How a server gives up root: stack/unprivileged.py."""

    user: int
    # Folders that the user gets. Root opens no file in them by name: the name may be a link that the server made.
    owned: Sequence[Path]
    # Folders with its programs, which the user must be able to read.
    reached: Sequence[Path]
    # It calls unprivileged.drop() itself, after it has read its own code, which the user may not be able to read.
    drops_itself: bool = False


@dataclass(frozen=True, kw_only=True)
class Service:
    """One server or program as data. Child starts it."""

    name: str
    folder: Path
    url: str = field(repr=False)
    # Absolute command lines. The last one is the server; the others prepare its folder and end.
    steps: Sequence[Sequence[str]]
    # Returns the server's version when it is ready, and raises any exception until then. Blocks two seconds at most.
    probe: Callable[[], str]
    # Settings (schemas.settings names) with which clients reach it.
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    # One of our own programs: it inherits the whole environment, with our settings and secrets. Other programs do not get those.
    ours: bool = False
    # Its last step is `python -m ...`, and a fork server may run it.
    forked: bool = False
    # For a program with several URLs: name -> URL.
    parts: Mapping[str, str] = field(default_factory=dict, repr=False)
    # The kernel sends it when the parent ends: SIGKILL, unless that would leave something behind.
    death_signal: int = signal.SIGKILL
    # The signal that stops it when its data are deleted anyway, so that no orderly end is needed.
    drop_signal: int = signal.SIGKILL
    # How it gives up root when root starts it; None: it does not.
    unprivileged: "Unprivileged | None" = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


class Child:
    """The process of a Service. One owner starts it, waits for it and stops it.

    Not thread-safe. Call `start` from a thread that lives as long as the child should: the child ends with that thread. No method is for an
    event loop: `wait` and `stop` block, `look` blocks as long as the probe (two seconds at most), `start` blocks while a fork server
    still imports (60 s at most). A child may be started again after it has ended.

    `version` is what the probe returned, "" before. `started_at` is in Unix milliseconds.
    """

    def __init__(self, service: Service, forks: Forks | None = None) -> None:
        self.service = service
        self.version = ""
        self.started_at = 0
        self._forks = forks
        self._process: subprocess.Popen[bytes] | Forked | None = None

    @property
    def pid(self) -> int:
        """Process id of the last start; 0 if it was never started."""
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs, and if it was never started."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Starts the process, also again after it has ended, and does not wait until it is ready: so several can be started at once.
        Waits only for a fork server that still imports. Raises ServiceFailed when a fork server cannot start it, OSError when the folder
        or the command cannot be used."""
        self._signal(signal.SIGKILL)  # processes that the previous start may have left in its group
        service = self.service
        tmp = private_files.make_folder(service.folder / "tmp")
        env = {**(os.environ if service.ours else foreign()), "TMPDIR": str(tmp), **service.env}
        if self._forks is not None:
            private_files.append_to(service.log).close()  # create it with access for its owner only
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
        """Blocks until the probe succeeds or `cancelled()` is true. Raises ServiceFailed when the process ends, or after
        `limit_seconds`; after the limit it is stopped first."""
        deadline = time.monotonic() + limit_seconds
        while not cancelled() and not self.look(deadline, limit_seconds):
            time.sleep(0.05)

    def look(self, deadline: float, limit_seconds: float) -> bool:
        """Calls the probe once: True when the server is ready (`version` is set then), else False. Raises ServiceFailed when the process
        has ended, or when the probe fails after `deadline` (time.monotonic); then the process is stopped first. `limit_seconds` is only
        for the sentence."""
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
        """Ends the process group: SIGTERM, then after `timeout_seconds` SIGKILL for what is left. Blocks until the process has ended. Does
        nothing if it never ran."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Sends the signal to the process group, if the process runs, and returns at once; so several children can end at the same time."""
        if self.returncode is None:
            self._signal(number)

    def log_tail(self, lines: int = 5) -> str:
        """The log's path and last lines, secrets masked, as the end of a sentence. Never raises."""
        try:
            text = self.service.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        tail = masked(" | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()))
        return f"log {self.service.log} ends: {tail or '(empty)'}"

    def _rights(self) -> dict[str, Any] | None:
        """How to give up root, as data for stack/child.py."""
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
    """The user id that servers get when root starts them; None when this process is not root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def as_nobody(folder: Path, *reached: Path, drops_itself: bool = False) -> Unprivileged | None:
    """The rights of a server that owns `data` and `tmp` of its folder and nothing else, and reads its programs from `reached`. None when
    this process is not root."""
    user = nobody()
    if user is None:
        return None
    owned = [folder / "data", folder / "tmp"]
    return Unprivileged(user=user, owned=owned, reached=reached, drops_itself=drops_itself)


def _is_ours(each: Path, folder: Path) -> bool:
    """Whether a folder above a service's folder belongs to the stack: the stack's folder, and `.chat4all`, which holds all stacks."""
    return each != folder.parent.parent or each.name == ".chat4all"
