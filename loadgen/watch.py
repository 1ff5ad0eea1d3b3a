"""How far a run is, while it runs: what PostgreSQL and the workers say, asked a few times a second.

Enters: the run's prefix of conversation ids, PostgreSQL, the workers' /metrics URLs. Leaves: a Sight. For eyes only: no verdict is
taken from here.
"""

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

_TIMEOUT_SECONDS = 1.0
_RECORDS = "chat4all_records_total{"
_GIVEN_UP = frozenset({"FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED"})


@dataclass(frozen=True, slots=True)
class Sight:
    """One look. `statuses` is (channel, status) -> deliveries of the run, `processed` stage -> source records taken so far."""

    statuses: Mapping[tuple[str, str], int] = field(default_factory=dict)
    last_signs: Mapping[str, str] = field(
        default_factory=dict
    )  # what each channel can show at most; READ where it is not said
    processed: Mapping[str, int] = field(default_factory=dict)
    events: int = 0  # transitions of the run in PostgreSQL: while it grows, something is on its way

    @property
    def known(self) -> int:
        return sum(self.statuses.values())

    def with_status(self, *wanted: str) -> int:
        return sum(count for (_, status), count in self.statuses.items() if status in wanted)

    @property
    def final(self) -> int:
        """Deliveries that have ended, as far as their channel can show."""
        return sum(
            count
            for (channel, status), count in self.statuses.items()
            if status in _GIVEN_UP or status == "READ" or status == self.last_signs.get(channel)
        )


class Watch:
    """Looks at one run. `look` never raises: what cannot be asked now stays as it was."""

    def __init__(
        self, *, postgres_url: str, run_id: str, metrics_urls: Mapping[str, str], last_signs: Mapping[str, str]
    ) -> None:
        self._last_signs = last_signs
        self._postgres_url = postgres_url
        self._run_id = run_id
        self._metrics_urls = metrics_urls
        self._connection: psycopg.Connection[Any] | None = None
        self._last = Sight()

    def look(self) -> Sight:
        statuses, events = self._statuses()
        processed = {stage: self._processed(stage) for stage in self._metrics_urls}
        self._last = Sight(statuses, self._last_signs, processed, events)
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
        except psycopg.OperationalError:
            return self._last.statuses, self._last.events
        return {(channel, status): count for channel, status, count, _ in rows}, sum(int(row[3]) for row in rows)

    def _processed(self, stage: str) -> int:
        try:
            with urllib.request.urlopen(f"{self._metrics_urls[stage]}/metrics", timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # our own worker
                lines = answer.read().decode().splitlines()
        except (OSError, urllib.error.URLError):
            return self._last.processed.get(stage, 0)
        return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_RECORDS)))
