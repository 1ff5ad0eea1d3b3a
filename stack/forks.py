"""Starts programs through a fork server (stack/fork_server.py): several programs for the imports of one.

Enters: the modules they need, then one Start for each. Leaves: a Forked, with the methods of a `subprocess.Popen` that stack/ needs.
Guaranteed: the server ends with the process that started it, and every program ends with the server. A server that has ended is started
again with the next program; the programs it had started count as killed.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stack.fork_server import Start
from stack.launch import ServiceFailed, wrapped

BEGIN_SECONDS = 60.0  # it may still be importing


class Forked:
    """The process of a program. Not thread-safe: use it in the thread of its Forks."""

    def __init__(self, pid: int, look: Callable[[float], None]) -> None:
        self.pid = pid
        self.code: int | None = None
        self._look = look

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs. Does not block."""
        if self.code is None:
            self._look(0)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """Blocks until it has ended, and returns its exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self._look(0.1)
        return self.code or 0


class Forks:
    """The fork server and the programs it has started. `log` gets the server's own errors. Not thread-safe; the server and its programs end
    with the thread that called `start`."""

    def __init__(self, modules: Sequence[str], log: Path) -> None:
        self._modules = ",".join(modules)
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None
        self._running: dict[int, Forked] = {}
        self._began: list[Forked] = []
        self._buffered = b""

    def start(self) -> None:
        """Starts the server and returns at once, while it imports."""
        self._buffered = b""
        command = [sys.executable, "-m", "stack.fork_server", self._modules]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                wrapped([command]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def begin(self, start: Start) -> Forked:
        """Starts the program, and the server if it has ended. Blocks until the program runs: while the server imports, 60 s at most. Raises
        ServiceFailed."""
        if self._server is None or self._server.poll() is not None:
            self.start()
        deadline = time.monotonic() + BEGIN_SECONDS
        try:
            os.write(self._pipe(), start.line())
        except OSError as error:
            raise ServiceFailed(f"{start.name}: the fork server cannot be asked ({error}); log {self._log}") from error
        while not self._began:
            if self._server is None or time.monotonic() > deadline:
                raise ServiceFailed(f"{start.name}: the fork server did not start it; log {self._log}")
            self._look(0.1)
        return self._began.pop()

    def close(self) -> None:
        """Kills the server, and with it all programs it has started."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._gone()

    def _pipe(self) -> int:
        if self._server is None or self._server.stdin is None:
            raise BrokenPipeError("it has ended")
        return self._server.stdin.fileno()

    def _look(self, seconds: float) -> None:
        """Reads the server's reports; waits `seconds` at most for the first."""
        if self._server is None or self._server.stdout is None:
            time.sleep(seconds)  # all its programs are known to have ended
            return
        output = self._server.stdout.fileno()
        while select.select([output], [], [], seconds)[0]:
            piece = os.read(output, 65536)
            if not piece:
                self._gone()
                return
            seconds = 0
            *lines, self._buffered = (self._buffered + piece).split(b"\n")
            for line in lines:
                self._note(json.loads(line))

    def _note(self, news: dict[str, int]) -> None:
        if "began" in news:
            forked = Forked(news["began"], self._look)
            self._running[forked.pid] = forked
            self._began.append(forked)
        elif news["ended"] in self._running:
            self._running.pop(news["ended"]).code = news["code"]

    def _gone(self) -> None:
        """Cleans up after the server's end: the kernel ends its programs."""
        if self._server is not None:
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                if pipe is not None:
                    pipe.close()
        self._server = None
        for forked in self._running.values():
            forked.code = -signal.SIGKILL
        self._running.clear()
