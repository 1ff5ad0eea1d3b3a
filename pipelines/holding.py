"""Messages that wait until it is certain what a mirrored topic says of them, and those behind them in their conversations.

In: records that cannot be decided on yet, and the engine's word that the topic has been read up to where it ended after they were held.
Out: the same records, in the order in which they came. Guaranteed: nothing of a conversation passes what is held of it; what is held is a
row, so that a restart finds it and asks anew. All pure; how much is held is bounded (tables/held.py).
"""

from collections import deque
from typing import NamedTuple

from pipelines.engine.stage import Call, Record, Result
from tables.held import MOST_HELD, MOST_HELD_BYTES, HeldRecord
from tables.table import Table


class DueRecord(NamedTuple):
    """A held record whose turn it is. It is `certain` when the view holds everything that was produced before the record came."""

    key: bytes
    row: HeldRecord
    record: Record
    certain: bool


class Holding:
    """Of one partition; `topic` is the mirrored one. All but the rows is derived from them, or asked for again."""

    def __init__(self, rows: Table[HeldRecord], partition: int, topic: str) -> None:
        self._rows = rows
        self._partition = partition
        self._topic = topic
        self._queues: dict[bytes, deque[bytes]] = {}  # conversation -> keys of its rows in the order in which they came
        self._bytes = 0
        self._number = 0  # the highest of a row
        self._certain: set[bytes] = set()
        self._ready: dict[bytes, None] = {}  # conversations whose first row is to be decided on, in turn
        self._asked = False
        for key, row in sorted(rows.items(), key=lambda item: item[1].number):
            self._derive(key, row)

    def has_room(self) -> bool:
        return len(self._rows) < MOST_HELD and self._bytes < MOST_HELD_BYTES

    def is_waiting(self, conversation: bytes) -> bool:
        """Whether something of the conversation is held, so that nothing else of it may be decided on."""
        return conversation in self._queues

    def is_due(self) -> bool:
        """Whether a turn is wanted although nothing arrives: to decide on what is held, or to ask."""
        return bool(self._ready) or self._must_ask()

    def hold(self, record: Record, tenant_id: str, conversation: bytes) -> None:
        key = f"{record.topic}/{record.partition}/{record.offset}".encode()
        while key in self._rows:  # of a topic that was deleted and created again
            key += b"'"
        source = (record.topic, record.offset, record.timestamp)
        kept = [(name.encode(), *_kept(value)) for name, value in record.headers]
        frames = [part for name, _, value in kept for part in (name, value)]
        row = HeldRecord(
            tenant_id, conversation.decode(), self._number + 1, source, tuple(kind for _, kind, _ in kept),
            (record.key or b"", record.value or b"", *frames),
        )  # fmt: skip
        self._rows.put(key, row)
        self._derive(key, row)

    def ask(self, *, closing: bool) -> Call | None:
        """The question where the topic ends now, for all that nothing is certain of; one at a time, and none that would not be asked."""
        if closing or not self._must_ask():
            return None
        self._asked = True
        uncertain = sorted(key for queue in self._queues.values() for key in queue if key not in self._certain)
        return Call(self._topic, tuple(uncertain), end_of=self._topic)

    def answered(self, result: Result) -> None:
        """The view holds everything that was on the topic when `result.call` was asked for."""
        self._asked = False
        for key in result.call.request:
            row = self._rows.get(key)
            if row is None:
                continue  # asked twice, around a decision that raised
            self._certain.add(key)
            conversation = row.conversation.encode()
            if self._queues[conversation][0] == key:
                self._ready[conversation] = None

    def next(self) -> DueRecord | None:
        """What is to be decided on now; `release` or `keep` it before the next one."""
        if not self._ready:
            return None
        key = self._queues[next(iter(self._ready))][0]
        row = self._rows.get(key)
        assert row is not None, key  # noqa: S101  # the queues are made of the rows
        return DueRecord(key, row, _record(row, self._partition), key in self._certain)

    def release(self, waiting: DueRecord) -> None:
        """It was decided on; what is behind it in its conversation is next."""
        conversation = waiting.row.conversation.encode()
        self._queues[conversation].popleft()
        if not self._queues[conversation]:
            del self._queues[conversation], self._ready[conversation]
        self._bytes -= waiting.row.size
        self._certain.discard(waiting.key)
        self._rows.delete(waiting.key)

    def keep(self, waiting: DueRecord) -> None:
        """It cannot be decided on yet, and stays with what is behind it."""
        del self._ready[waiting.row.conversation.encode()]

    def _must_ask(self) -> bool:
        return not self._asked and len(self._certain) < len(self._rows)

    def _derive(self, key: bytes, row: HeldRecord) -> None:
        self._queues.setdefault(row.conversation.encode(), deque()).append(key)
        self._bytes += row.size
        self._number = max(self._number, row.number)


def _kept(value: str | bytes | None) -> tuple[str, bytes]:
    """How a header's value is kept, and as what."""
    if value is None:
        return "none", b""
    return ("text", value.encode()) if isinstance(value, str) else ("bytes", value)


def _record(row: HeldRecord, partition: int) -> Record:
    """The record as it came."""
    topic, offset, timestamp = row.source
    key, value, *rest = row.frames
    headers = tuple(
        (name.decode(), None if kind == "none" else each.decode() if kind == "text" else each)
        for kind, name, each in zip(row.headers, rest[::2], rest[1::2], strict=True)
    )
    return Record(topic, partition, offset, timestamp, key, value, headers)
