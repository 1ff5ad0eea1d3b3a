"""Messages of people that wait: a reply whose answered message is not known yet, and the person's later messages behind it.

In: inbound messages, and the time. Out: the same messages, for each person in the order of arrival. Guaranteed: no message overtakes an
earlier one of the same person and tenant. A waiting message is a row of table `held_inbound`, so a restart finds it with the rest of its
time. The number and the bytes of the rows are bounded. No I/O.
"""

from collections import deque
from typing import NamedTuple

from schemas.records import InboundMessage
from tables.table import Table
from tables.threads import MOST_HELD_INBOUND, MOST_HELD_INBOUND_BYTES, MOST_HELD_OF_A_PERSON, ChannelPerson, HeldInbound
from tables.timers import Timers


class _Waiting(NamedTuple):
    key: bytes
    provider_message_id: str


class ReplyQueues:
    """The waiting messages of one partition, a queue for each person and tenant. `rows` is table `held_inbound`; everything else is
    derived from it. Each message waits `wait_ms` at most. Methods run within `decide`."""

    def __init__(self, rows: Table[HeldInbound], wait_ms: int) -> None:
        self._rows = rows
        self._wait_ms = wait_ms
        self._queues: dict[str, deque[_Waiting]] = {}
        self._timers = Timers()  # queue -> when its first message has waited long enough
        self._number = 0  # the highest number of a row
        self._bytes = 0
        for key, row in sorted(rows.items(), key=lambda item: item[1].number):
            self._derive(key, row)

    def next_due(self) -> int | None:
        return self._timers.next_due()

    def take_due(self, now: int, at_most: int) -> list[str]:
        """Removes and returns queues whose first message has waited long enough; the caller then decides on it."""
        return self._timers.take_due(now, at_most)

    def is_waiting(self, queue: str) -> bool:
        """Whether messages wait in the queue; no later message of it may be decided on then."""
        return queue in self._queues

    def holds(self, queue: str, provider_message_id: str) -> bool:
        """Whether this very message waits."""
        return any(each.provider_message_id == provider_message_id for each in self._queues.get(queue, ()))

    def is_full(self) -> bool:
        """Whether the partition holds as much as it may."""
        return len(self._rows) >= MOST_HELD_INBOUND or self._bytes >= MOST_HELD_INBOUND_BYTES

    def is_long(self, queue: str) -> bool:
        """Whether the queue holds more than it may."""
        return len(self._queues.get(queue, ())) > MOST_HELD_OF_A_PERSON

    def add(self, queue: str, message: InboundMessage, size: int, now: int) -> None:
        """Adds a row for the message, at the end of its queue. `size` is that of its record, in bytes."""
        row = HeldInbound(self._number + 1, now, size, message)
        key = f"{queue}/{row.number}".encode()
        self._rows.put(key, row)
        self._derive(key, row)

    def first(self, queue: str) -> HeldInbound | None:
        """The first message of the queue; None without one."""
        waiting = self._queues.get(queue)
        return self._rows.get(waiting[0].key) if waiting else None

    def has_waited(self, row: HeldInbound, now: int) -> bool:
        """Whether the message has waited long enough. If it has not, its queue becomes due when it has."""
        due = row.since + self._wait_ms
        if due > now:
            self._timers.set(_queue_of(row), due)
        return due <= now

    def take_first(self, queue: str) -> None:
        """The first message of the queue was decided on: deletes its row."""
        waiting = self._queues[queue]
        key = waiting.popleft().key
        row = self._rows.get(key)
        self._bytes -= row.size if row is not None else 0
        self._rows.delete(key)
        self._timers.cancel(queue)
        if not waiting:
            del self._queues[queue]

    def forget(self, queue: str, until: int) -> int:
        """Deletes the queue's messages that were received until the time `until`; returns how many. The rest waits on."""
        number = 0
        while (row := self.first(queue)) is not None:
            if row.message.received_at > until:
                self._timers.set(queue, row.since + self._wait_ms)
                break
            self.take_first(queue)
            number += 1
        return number

    def _derive(self, key: bytes, row: HeldInbound) -> None:
        queue = _queue_of(row)
        self._queues.setdefault(queue, deque()).append(_Waiting(key, row.message.provider_message_id))
        if len(self._queues[queue]) == 1:
            self._timers.set(queue, row.since + self._wait_ms)
        self._number = max(self._number, row.number)
        self._bytes += row.size


def _queue_of(row: HeldInbound) -> str:
    return ChannelPerson.of(row.message).of_tenant(row.message.tenant_id)
