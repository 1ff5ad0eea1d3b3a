"""Kafka as the engine relies on it, in memory, for one partition of everything: topics, a group's offsets, and the fence.

A transaction becomes visible whole, with its offsets, or not at all; whoever has been fenced commits nothing. What else can go wrong
with a commit is decided by whoever holds the `Slow` executor: it runs when told to, and fails before or after it has happened.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import Any, NamedTuple

from pipelines.engine.line import Line
from pipelines.engine.transactions import CommitFailed, Fenced, Held, OutcomeUnknown, Transactions, Turn, Unreachable


class Entry(NamedTuple):
    key: bytes
    value: bytes | None


class Kafka:
    """What was committed. The owner of the partition is the one who was given the latest epoch."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Entry]] = defaultdict(list)
        self.offsets: dict[tuple[str, int], int] = {}
        self.epoch = 0
        self.commits = 0  # so far, and the last one's owner: what the marks of the group's offsets tell
        self.last: object = None

    def open(self) -> int:
        """Fences whoever was there."""
        self.epoch += 1
        return self.epoch

    def commit(
        self, owner: object, epoch: int, entries: Sequence[tuple[str, Entry]], offsets: Mapping[tuple[str, int], int]
    ) -> None:
        if epoch != self.epoch:
            raise Fenced("another has opened it")
        for topic, entry in entries:
            self.topics[topic].append(entry)
        assert all(offset >= self.offsets.get(source, 0) for source, offset in offsets.items()), "the group goes back"
        self.offsets.update(offsets)
        self.commits += 1
        self.last = owner

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
    """Commits to the model; `ending` is what the next commit comes to. Kafka may be away when it is asked what has become of one."""

    def __init__(self, kafka: Kafka) -> None:
        self.id = "toy-0"
        self.ending = Ending.DONE
        self.away = False
        self._kafka = kafka
        self._epoch = kafka.open()
        self._commits = kafka.commits

    def leave(self) -> None:
        """There is no client."""

    def knows(self, held: Mapping[tuple[str, int], Held]) -> None:  # noqa: ARG002  # the model counts commits instead
        self._commits = self._kafka.commits

    def begin(self) -> None:
        """The commit by which whoever takes a partition over leaves its mark. A fence that came before it is heard of later."""
        self._kafka.commits += 1
        self._kafka.last = self
        self.knows({})

    def send(self, turn: Turn) -> None:
        """The model sees a turn when it is committed."""

    def commit(self, turn: Turn) -> Mapping[str, int]:
        if self.ending is Ending.LOST:
            raise OutcomeUnknown("it was lost")
        entries = [(output.topic, Entry(output.key, output.value)) for output in turn.outputs]
        entries += [(rows.topic, Entry(*change)) for rows in turn.rows for change in rows.changes]
        self._kafka.commit(self, self._epoch, entries, turn.offsets)
        if self.ending is Ending.UNHEARD:
            raise OutcomeUnknown("nobody knows")
        return self._ends_of(turn)

    def reopen(self, turn: Turn | None) -> Mapping[str, int] | None:
        if self.away:
            raise Unreachable("Kafka is away")
        self._epoch = self._kafka.open()
        happened = turn is not None and self._kafka.last is self and self._kafka.commits == self._commits + 1
        if not happened and self._kafka.commits != self._commits:
            raise Fenced("the group holds what another has committed")
        return self._ends_of(turn) if turn is not None and happened else None

    def _ends_of(self, turn: Turn) -> Mapping[str, int]:
        self._commits = self._kafka.commits
        return {rows.topic: len(self._kafka.topics[rows.topic]) for rows in turn.rows}


class Slow(Line):
    """Runs what it is given when it is told to."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run_one(self) -> None:
        future, work = self.waiting.pop(0)
        try:
            future.set_result(work())
        except (CommitFailed, Unreachable) as error:
            future.set_exception(error)
