"""Cores and processes: a contender has one core to itself; Kafka and the benchmark have the others."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

CORES = sorted(os.sched_getaffinity(0))  # Linux
CONTENDER = {CORES[0]}
OTHERS = set(CORES[1:]) or CONTENDER
STOP_SECONDS = 30.0


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Processes and threads that are started inside this context run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A contender's process on the contender's core; its output goes to `log`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CHAT4ALL_")}
        with log.open("wb") as output, pinned(CONTENDER):
            self._process = subprocess.Popen(
                list(command),
                env={**clean, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def cpu_seconds(self) -> float:
        """CPU seconds that it has used; 0 once it has ended."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def stop(self) -> None:
        """Ends it with SIGTERM, and with SIGKILL if it still runs after STOP_SECONDS. Blocks until it has ended."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        if not self.ended:
            self._process.kill()
        self._process.wait()
