"""Held messages: they wait until the mirror of a topic holds everything that was produced before them.

In: records that cannot be decided on yet, and the result of the call that waits for the end of the mirrored topic. Out: the same
records, in order of arrival. Guaranteed: no message overtakes a held message of its conversation. A held record is a row of table
`held`, so a restart finds it and asks again. No I/O; the number and bytes of held records are bounded (tables/held.py).
"""

from collections import deque
from typing import NamedTuple

from pipelines.engine.stage import Call, Record, Result
from tables.held import MOST_HELD, MOST_HELD_BYTES, HeldRecord
from tables.table import Table


class DueRecord(NamedTuple):
    """A held record to decide on. It is `certain` when the view holds everything that was produced before the record arrived."""

    key: bytes
    row: HeldRecord
    record: Record
    certain: bool


class Holding:
    """The held records of one partition; `topic` is the mirrored topic. `rows` is table `held`, which the methods read and write;
    everything else is derived from the rows or asked for again. Methods run within `decide`: no I/O, no clock."""

    def __init__(self, rows: Table[HeldRecord], partition: int, topic: str) -> None:
        self._rows = rows
        self._partition = partition
        self._topic = topic
        self._queues: dict[bytes, deque[bytes]] = {}  # conversation -> keys of its rows in order of arrival
        self._bytes = 0
        self._number = 0  # the highest number of a row
        self._certain: set[bytes] = set()
        self._ready: dict[bytes, None] = {}  # conversations whose first row can be decided on, in order
        self._asked = False
        for key, row in sorted(rows.items(), key=lambda item: item[1].number):
            self._derive(key, row)

    def has_room(self) -> bool:
        """Whether another record may be held."""
        return len(self._rows) < MOST_HELD and self._bytes < MOST_HELD_BYTES

    def is_waiting(self, conversation: bytes) -> bool:
        """Whether the conversation has held records; no other message of it may be decided on then."""
        return conversation in self._queues

    def is_due(self) -> bool:
        """Whether a turn is needed although nothing arrives: to decide on a held record, or to ask."""
        return bool(self._ready) or self._must_ask()

    def hold(self, record: Record, tenant_id: str, conversation: bytes) -> None:
        """Adds a row for the record, behind the held records of its conversation."""
        key = f"{record.topic}/{record.partition}/{record.offset}".encode()
        while key in self._rows:  # the topic was deleted and created again
            key += b"'"
        source = (record.topic, record.offset, record.timestamp)
        kept = [(name.encode(), *_kept(value)) for name, value in record.headers]
        kinds = tuple(kind for _, kind, _ in kept)
        frames = (record.key or b"", record.value or b"", *(part for name, _, value in kept for part in (name, value)))
        row = HeldRecord(tenant_id, conversation.decode(), self._number + 1, source, kinds, frames)
        self._rows.put(key, row)
        self._derive(key, row)

    def ask(self, *, closing: bool) -> Call | None:
        """A call that waits until the mirror has reached the topic's present end, for all uncertain records. None while one is open, while
        nothing is uncertain, or with `closing`, since the engine would not make the call."""
        if closing or not self._must_ask():
            return None
        self._asked = True
        uncertain = sorted(key for queue in self._queues.values() for key in queue if key not in self._certain)
        return Call(self._topic, tuple(uncertain), end_of=self._topic)

    def answered(self, result: Result) -> None:
        """Takes the result of `ask`: the view now holds everything that was on the topic when the call was asked for."""
        self._asked = False
        for key in result.call.request:
            row = self._rows.get(key)
            if row is None:
                continue  # asked twice, because a decision raised in between
            self._certain.add(key)
            conversation = row.conversation.encode()
            if self._queues[conversation][0] == key:
                self._ready[conversation] = None

    def next(self) -> DueRecord | None:
        """The next record to decide on, None without one. Call `release` or `keep` for it before the next call."""
        if not self._ready:
            return None
        key = self._queues[next(iter(self._ready))][0]
        row = self._rows.get(key)
        assert row is not None, key  # noqa: S101  # the queues are made of the rows
        return DueRecord(key, row, _record(row, self._partition), key in self._certain)

    def release(self, waiting: DueRecord) -> None:
        """The record was decided on: deletes its row. The next record of its conversation follows."""
        conversation = waiting.row.conversation.encode()
        self._queues[conversation].popleft()
        if not self._queues[conversation]:
            del self._queues[conversation], self._ready[conversation]
        self._bytes -= waiting.row.size
        self._certain.discard(waiting.key)
        self._rows.delete(waiting.key)

    def keep(self, waiting: DueRecord) -> None:
        """The record cannot be decided on yet: it stays held, with those behind it."""
        del self._ready[waiting.row.conversation.encode()]

    def _must_ask(self) -> bool:
        return not self._asked and len(self._certain) < len(self._rows)

    def _derive(self, key: bytes, row: HeldRecord) -> None:
        self._queues.setdefault(row.conversation.encode(), deque()).append(key)
        self._bytes += row.size
        self._number = max(self._number, row.number)


def _kept(value: str | bytes | None) -> tuple[str, bytes]:
    """A header's value as a row keeps it: its kind and its bytes."""
    if value is None:
        return "none", b""
    return ("text", value.encode()) if isinstance(value, str) else ("bytes", value)


def _record(row: HeldRecord, partition: int) -> Record:
    """The record as it arrived."""
    topic, offset, timestamp = row.source
    key, value, *rest = row.frames
    headers = tuple(
        (name.decode(), None if kind == "none" else each.decode() if kind == "text" else each)
        for kind, name, each in zip(row.headers, rest[::2], rest[1::2], strict=True)
    )
    return Record(topic, partition, offset, timestamp, key, value, headers)
