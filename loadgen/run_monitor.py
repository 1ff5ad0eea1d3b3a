"""The progress of a run, from PostgreSQL and the workers' metrics, read a few times a second.

Enters: the run's prefix of conversation ids, PostgreSQL, the workers' /metrics URLs. Leaves: a RunStatus. It is for display only: the
verdict does not use it.
"""

import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

_TIMEOUT_SECONDS = 1.0
_RECORDS = re.compile(r'chat4all_records_total\{stage="(?P<stage>\w+)"\} (?P<count>\S+)')
_GIVEN_UP = frozenset({"FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED"})


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The status at one time. `statuses` is (channel, status) -> number of deliveries of the run; `processed` is stage -> records
    processed so far by all workers."""

    statuses: Mapping[tuple[str, str], int] = field(default_factory=dict)
    # channel -> the last status that it can report; READ for a channel that is not here
    last_signs: Mapping[str, str] = field(default_factory=dict)
    processed: Mapping[str, int] = field(default_factory=dict)
    events: int = 0  # transitions and changes of cursors in PostgreSQL; while the number grows, the run makes progress

    @property
    def known(self) -> int:
        return sum(self.statuses.values())

    def with_status(self, *wanted: str) -> int:
        return sum(count for (_, status), count in self.statuses.items() if status in wanted)

    @property
    def final(self) -> int:
        """The number of deliveries that have ended: failed, or in the last status that their channel can report."""
        return sum(
            count
            for (channel, status), count in self.statuses.items()
            if status in _GIVEN_UP or status == "READ" or status == self.last_signs.get(channel)
        )


class RunMonitor:
    """Watches one run. `look` blocks for seconds at most and does not raise while a database or worker is unavailable: the old values stay.
    One thread at a time may use it."""

    def __init__(
        self, *, postgres_url: str, run_id: str, metrics_urls: Mapping[str, str], last_signs: Mapping[str, str]
    ) -> None:
        self._last_signs = last_signs
        self._postgres_url = postgres_url
        self._run_id = run_id
        self._metrics_urls = metrics_urls
        self._connection: psycopg.Connection[Any] | None = None
        self._last = RunStatus()
        self._counts: dict[str, Mapping[str, int]] = {}  # worker -> stage -> records

    def look(self) -> RunStatus:
        statuses, events = self._statuses()
        self._counts |= {name: self._processed(name) for name in self._metrics_urls}
        processed: Counter[str] = Counter()
        for counts in self._counts.values():
            processed.update(counts)
        self._last = RunStatus(statuses, self._last_signs, processed, events)
        return self._last

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _statuses(self) -> tuple[Mapping[tuple[str, str], int], int]:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._postgres_url, autocommit=True, connect_timeout=5)
            rows = self._connection.execute(
                "select channel, status, count(*), sum(version) from deliveries where conversation_id like %s group by 1, 2",
                (f"{self._run_id}-%",),
            ).fetchall()
            moved = self._connection.execute(
                "select coalesce(sum(version), 0) from cursors where conversation_id like %s", (f"{self._run_id}-%",)
            ).fetchone()
        except psycopg.OperationalError:
            return self._last.statuses, self._last.events
        return {(channel, status): count for channel, status, count, _ in rows}, (
            sum(int(row[3]) for row in rows) + (int(moved[0]) if moved else 0)
        )

    def _processed(self, worker: str) -> Mapping[str, int]:
        """Stage -> records that a worker has processed; the previous values when it does not answer."""
        try:
            with urllib.request.urlopen(f"{self._metrics_urls[worker]}/metrics", timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # our own worker
                lines = answer.read().decode().splitlines()
        except (OSError, urllib.error.URLError):
            return self._counts.get(worker, {})
        found = (_RECORDS.fullmatch(line) for line in lines)
        return {match["stage"]: int(float(match["count"])) for match in found if match is not None}
