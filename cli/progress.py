"""A run's progress on the terminal: live on a screen, a line every few seconds in a file or a pipe.

Enters: the status of the run, several times a second. Leaves: what rich draws. Guaranteed: shows only numbers that were just read.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from cli.terminal import console
from loadgen.load_producer import Progress
from loadgen.run_monitor import RunStatus
from pipelines.stages import BUILDERS

LINE_SECONDS = 5.0


class RunProgress:
    """A context manager that shows a run until its end. `deliveries` is the expected number, None until the load is produced.

    Any thread may call `loaded` and `seen`; they only draw."""

    def __init__(self) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._load = Progress(0, 0, 0, 0.0)
        self._status = RunStatus()
        self._printed = 0.0
        self.deliveries: int | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def loaded(self, load: Progress) -> None:
        self._load = load
        self._show()

    def seen(self, status: RunStatus) -> None:
        self._status = status
        self._show()

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._drawn())
        elif time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            console.print(self._line())

    def _in_flight(self) -> int:
        return self._status.with_status("PENDING")

    def _line(self) -> str:
        status, load = self._status, self._load
        stages = " ".join(f"{stage} {status.processed.get(stage, 0)}" for stage in BUILDERS)
        return (
            f"produced {load.acknowledged}/{load.total} · processed: {stages} · in flight {self._in_flight()} · "
            f"sent {status.with_status('SENT', 'DELIVERED', 'READ')} · delivered {status.with_status('DELIVERED', 'READ')} · "
            f"read {status.with_status('READ')}"
        )

    def _drawn(self) -> RenderableType:
        status, load = self._status, self._load
        stages = Table(box=None, pad_edge=False)
        cells = []
        for stage in BUILDERS:
            stages.add_column(stage, justify="right")
            cells.append(f"{status.processed.get(stage, 0):,}")
        stages.add_row(*cells)
        bars = Table.grid(padding=(0, 1))
        total = self.deliveries or max(status.known, 1)
        rows = (
            ("produced", load.acknowledged, max(load.total, 1)),
            ("sent", status.with_status("SENT", "DELIVERED", "READ"), total),
            ("delivered", status.with_status("DELIVERED", "READ"), total),
            ("read", status.with_status("READ"), total),
        )
        for name, done, of in rows:
            bars.add_row(name, ProgressBar(total=of, completed=done, width=50), f"{done:,} of {of:,}")
        return Group("records processed", stages, f"in flight {self._in_flight():,}", bars)
