"""Programs that a fork server (stack/fork_server.py) becomes: five of them for the imports of one.

Enters: the modules they need, then one Start each. Leaves: a Forked, which answers what a `subprocess.Popen` answers. Guaranteed: the
server dies with the process that started it, and every program with the server; a server that has died is started again with the next
program, and what it had started counts as killed.
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
    """A program's process. Not thread-safe, as its server's owner is not."""

    def __init__(self, pid: int, look: Callable[[float], None]) -> None:
        self.pid = pid
        self.code: int | None = None
        self._look = look

    def poll(self) -> int | None:
        """Its exit code, below zero the signal that ended it; None while it runs."""
        if self.code is None:
            self._look(0)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """Blocks until it has ended; raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self._look(0.1)
        return self.code or 0


class Forks:
    """The server and what it has started; `log` is where it says what is wrong with itself."""

    def __init__(self, modules: Sequence[str], log: Path) -> None:
        self._modules = ",".join(modules)
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None
        self._running: dict[int, Forked] = {}
        self._began: list[Forked] = []
        self._buffered = b""

    def start(self) -> None:
        """Starts the server, which begins to import; returns at once."""
        self._buffered = b""
        command = [sys.executable, "-m", "stack.fork_server", self._modules]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                wrapped([command]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def begin(self, start: Start) -> Forked:
        """Blocks until the program runs, for as long as the server still imports. Raises ServiceFailed."""
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
        """Ends the server, and with it whatever it has started."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._gone()

    def _pipe(self) -> int:
        if self._server is None or self._server.stdin is None:
            raise BrokenPipeError("it has ended")
        return self._server.stdin.fileno()

    def _look(self, seconds: float) -> None:
        """Takes in what the server tells, waiting for it for so long."""
        if self._server is None or self._server.stdout is None:
            time.sleep(seconds)  # whatever it had started is known to have ended
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
        """The kernel ends what a dead server had started."""
        if self._server is not None:
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                if pipe is not None:
                    pipe.close()
        self._server = None
        for forked in self._running.values():
            forked.code = -signal.SIGKILL
        self._running.clear()
