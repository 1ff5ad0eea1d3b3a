"""Kafka as the engine relies on it, in memory, for one partition of everything: topics, a group's offsets, and the fence.

A transaction becomes visible whole, with its offsets, or not at all; whoever has been fenced commits nothing. What else can go wrong
with a commit is decided by whoever holds the `Slow` executor: it runs when told to, and fails before or after it has happened.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from enum import Enum
from typing import Any, NamedTuple

from pipelines.engine.stage import Output
from pipelines.engine.transactions import CommitFailed, Fenced, Transactions


class Entry(NamedTuple):
    key: bytes
    value: bytes | None


class Kafka:
    """What was committed. The owner of the partition is the one who was given the latest epoch."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Entry]] = defaultdict(list)
        self.offsets: dict[tuple[str, int], int] = {}
        self.epoch = 0

    def open(self) -> int:
        """Fences whoever was there."""
        self.epoch += 1
        return self.epoch

    def commit(self, epoch: int, entries: Sequence[tuple[str, Entry]], offsets: Mapping[tuple[str, int], int]) -> None:
        if epoch != self.epoch:
            raise Fenced("another has opened it")
        for topic, entry in entries:
            self.topics[topic].append(entry)
        assert all(offset >= self.offsets.get(source, 0) for source, offset in offsets.items()), "the group goes back"
        self.offsets.update(offsets)

    def replay(self, topic: str, end: int | None = None) -> dict[bytes, bytes]:
        """A changelog's rows, as far as `end`."""
        rows: dict[bytes, bytes] = {}
        for key, value in self.topics[topic][:end]:
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return rows


class Ending(Enum):
    """How a commit ends: for Kafka, and for whoever waits for it."""

    DONE = "done"
    LOST = "nothing has happened"
    UNHEARD = "it has happened, and nobody here hears of it"


class ModelTransactions(Transactions):
    """Commits to the model; `ending` is what the next commit comes to."""

    def __init__(self, kafka: Kafka) -> None:
        self.id = "toy-0"
        self.ending = Ending.DONE
        self._kafka = kafka
        self._epoch = kafka.open()
        self._entries: list[tuple[str, Entry]] = []

    def produce(self, outputs: Sequence[Output]) -> None:
        self._entries += [(output.topic, Entry(output.key, output.value)) for output in outputs]

    def produce_rows(self, topic: str, partition: int, rows: Sequence[tuple[bytes, bytes | None]]) -> None:  # noqa: ARG002  # there is one
        self._entries += [(topic, Entry(key, value)) for key, value in rows]

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Mapping[str, int]:
        if self.ending is Ending.LOST:
            raise CommitFailed("it was lost")
        self._kafka.commit(self._epoch, self._entries, offsets)
        if self.ending is Ending.UNHEARD:
            raise CommitFailed("nobody knows")
        written = {topic for topic, _ in self._entries}
        self._entries = []
        return {topic: len(self._kafka.topics[topic]) for topic in written}


class Slow(Executor):
    """Runs what it is given when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run_one(self) -> None:
        future, work = self.waiting.pop(0)
        try:
            future.set_result(work())
        except CommitFailed as error:
            future.set_exception(error)
