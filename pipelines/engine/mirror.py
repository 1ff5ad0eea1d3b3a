"""A small compacted topic, kept complete in memory and up to date: contacts.

Enters: the topic, from its first offset. Leaves: the latest value of each key, as a View. Guaranteed: a mirror is complete up to the
topic's end before `start` returns, and follows the topic after that; it shows only what was committed (read_committed). A thread reads and
decodes; the event loop applies the changes between decisions, never during one.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipelines.engine import client_settings
from pipelines.engine.client_settings import PASSING
from pipelines.engine.poison import raised_where
from pipelines.engine.stage import Mirrored, View
from schemas.kafka_access import KafkaAccess
from schemas.tracebacks import unquoted

log = structlog.get_logger(__name__)
START_SECONDS = 60.0
POLL_SECONDS = 0.2  # the longest time until the thread notices that it has to stop
BATCH = 10_000  # records
# The broker holds a fetch of an idle topic for so long; a new record is still answered at once.
FETCH_WAIT_MS = 500
Change = tuple[bytes, Any]  # a key and its new value, None for a key that was removed


class NoTopic(Exception):
    """The topic does not exist; the sentence says what to do."""


class Mirror:
    """The mirror of one topic; its methods are for the event loop and do not block it. Every worker mirrors all partitions of the topic, so
    that a rebalance changes nothing.

    `fail(reason)` ends the worker; it is called in the event loop when the topic cannot be followed any more. `positions` is partition ->
    offset: everything before it is in the view.
    """

    def __init__(self, *, kafka: KafkaAccess, mirrored: Mirrored, fail: Callable[[str], None]) -> None:
        self.topic = mirrored.topic
        self.positions: dict[int, int] = {}
        self._decode = mirrored.decode
        self._values: dict[bytes, Any] = {}
        self.view: View[Any] = View(self._values)
        self._kafka = kafka
        self._fail = fail
        self._loop: asyncio.AbstractEventLoop
        self._complete = threading.Event()
        self._stopping = threading.Event()
        self._failure: str | None = None
        self._moved = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"mirror-{self.topic}", daemon=True)

    async def start(self, seconds: float = START_SECONDS) -> None:
        """Returns when the mirror is complete. Raises TimeoutError when that takes longer than `seconds` or the topic cannot be read."""
        self._loop = asyncio.get_running_loop()
        if not self._thread.ident:
            self._thread.start()
        if not await asyncio.to_thread(self._complete.wait, seconds) or self._failure:
            raise TimeoutError(
                f"topic {self.topic} could not be read to its end: {self._failure or f'{seconds:.0f} s passed'}"
            )

    async def stop(self) -> None:
        """Ends the thread; waits for it for 10 s at most."""
        self._stopping.set()
        if self._thread.ident:
            await asyncio.to_thread(self._thread.join, 10.0)

    async def reach(self, end: Mapping[int, int]) -> None:
        """Returns when everything before these offsets, partition -> offset, is in the view. Has no time-out."""
        while not self.has_reached(end):
            await self._moved.wait()

    def has_reached(self, end: Mapping[int, int]) -> bool:
        return all(self.positions.get(partition, 0) >= offset for partition, offset in end.items())

    # --- in the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        settings = client_settings.settings(self._kafka, "mirror", group_id=f"chat4all-mirror-{self.topic}")
        reading = {
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "auto.offset.reset": "error",  # a topic that was created again: the memory holds the old one
        }
        consumer = Consumer({**settings, **reading})
        try:
            self._follow(consumer)
        except Exception as error:  # noqa: BLE001  # start() raises it, or it ends the worker when it happens later
            self._failure = raised_where(error)
            if self._complete.is_set():
                why = f"mirror of topic {self.topic} stopped: {self._failure}; a restart reads it again"
                self._in_loop(self._fail, why)
            self._complete.set()
        finally:
            consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        found = consumer.list_topics(self.topic, timeout=30).topics[self.topic]
        if found.error is not None:
            raise NoTopic(f"{found.error.str()}: run `python -m pipelines prepare`")
        self.positions = dict.fromkeys(found.partitions, 0)
        consumer.assign([TopicPartition(self.topic, partition, OFFSET_BEGINNING) for partition in self.positions])
        left = set(self.positions)  # partitions not read to their end yet
        while not self._stopping.is_set():
            first = consumer.poll(POLL_SECONDS)
            if first is None:
                continue
            changes, positions, ended = self._read([first, *consumer.consume(BATCH, 0)])
            if left:
                self._take_in(changes, positions)  # the event loop does not look at the view yet
                left -= ended
                if not left:
                    self._complete.set()
            else:
                self._hand_over(changes, positions)

    def _read(self, messages: Sequence[Message]) -> tuple[list[Change], dict[int, int], set[int]]:
        """The changes, the next offset of each partition after them, and the partitions that have been read to their ends."""
        changes: list[Change] = []
        positions: dict[int, int] = {}
        ended: set[int] = set()
        for message in messages:
            error, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
            if error is None:
                changes += self._changes(message)
                positions[partition] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own code has no public name
                positions[partition] = offset
                ended.add(partition)
            elif not (error.retriable() or error.code() in PASSING):
                raise KafkaException(error)
        return changes, positions, ended

    def _changes(self, message: Message) -> list[Change]:
        """What a record changes: one key or, when it does not belong there, nothing. A key is personal data: the log has the position."""
        key, value = message.key(), message.value()
        why = "it has no key"
        if key is not None:
            try:
                return [(key, None if value is None else self._decode(key, value))]
            except ValueError as error:
                why = unquoted(str(error))
        log.warning(
            "record not taken", topic=self.topic, partition=message.partition(), offset=message.offset(), error=why
        )
        return []

    def _hand_over(self, changes: Sequence[Change], positions: Mapping[int, int]) -> None:
        """Gives the changes to the event loop and waits until it has applied them: at most one batch is under way."""
        taken = threading.Event()

        def take_in() -> None:
            self._move(changes, positions)
            taken.set()

        if self._in_loop(take_in):
            while not taken.wait(POLL_SECONDS) and not self._stopping.is_set():
                pass

    def _in_loop(self, step: Callable[..., None], *arguments: str) -> bool:
        try:
            self._loop.call_soon_threadsafe(step, *arguments)
        except RuntimeError:
            log.debug("the event loop has closed", part="mirror")
            return False
        return True

    def _move(self, changes: Sequence[Change], positions: Mapping[int, int]) -> None:
        """In the event loop: applies the changes and wakes the tasks in `reach`."""
        self._take_in(changes, positions)
        self._moved.set()
        self._moved.clear()

    def _take_in(self, changes: Sequence[Change], positions: Mapping[int, int]) -> None:
        for key, value in changes:
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        self.positions.update(positions)
