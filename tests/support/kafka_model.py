"""A model of Kafka in memory, as the engine relies on it: topics, a group's offsets, and the two fences.

A transaction becomes visible as a whole, with its offsets, or not at all. It is refused when another process has opened its writer's
transactional id, and when its member is not in the group's current generation. The test decides what else goes wrong with a commit: it
holds the `Slow` executor, runs the commit, and lets it fail before or after it took effect.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import Any, NamedTuple

from pipelines.engine.membership import Member
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.serial_executor import SerialExecutor
from pipelines.engine.transactions import (
    CommitFailed,
    Ends,
    Fenced,
    HeldOffset,
    IdTaken,
    OutcomeUnknown,
    Sent,
    Transactions,
    TurnContents,
    Unreachable,
)
from schemas.kafka_access import KafkaAccess

TopicPart = tuple[str, int]


class Entry(NamedTuple):
    key: bytes
    value: bytes | None


class Kafka:
    """What was committed. `generation` is the group's. Partition -1 of a topic holds records without a partition number."""

    def __init__(self) -> None:
        self.topics: dict[TopicPart, list[Entry]] = defaultdict(list)
        self.held: dict[TopicPart, HeldOffset] = {}
        self.epochs: Counter[str] = Counter()
        self.generation = 0
        self.sizes: list[int] = []  # how many partitions each transaction had

    def open(self, transactional_id: str) -> int:
        """Fences the former producer of the id."""
        self.epochs[transactional_id] += 1
        return self.epochs[transactional_id]

    def offset(self, source: TopicPart) -> int:
        return self.held[source].offset if source in self.held else 0

    def commit(
        self,
        member: Member,
        fence: tuple[str, int],
        entries: Sequence[tuple[TopicPart, Entry]],
        held: Mapping[TopicPart, HeldOffset],
    ) -> None:
        if self.epochs[fence[0]] != fence[1]:
            raise IdTaken("another process has opened it")
        if member.generation != self.generation:
            raise Fenced("the group has a newer generation")
        for place, entry in entries:
            self.topics[place].append(entry)
        assert all(at.offset >= self.offset(source) for source, at in held.items()), "the group's offset moves back"
        assert held, "a transaction without offsets is not fenced"
        self.held.update(held)
        self.sizes.append(len({number for _, number in held}))

    def replay(self, place: TopicPart, end: int | None = None) -> dict[bytes, bytes]:
        """A changelog's rows before `end`."""
        rows: dict[bytes, bytes] = {}
        for key, value in self.topics[place][:end]:
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return rows


class Ending(Enum):
    """How a commit ends, for Kafka and for the worker that waits for it."""

    DONE = "done"
    LOST = "not committed"
    UNANSWERED = "committed, and the worker gets no answer"


class ModelTransactions(Transactions):
    """Commits to the model; `ending` is how the next commit ends. With `away`, Kafka is unavailable for questions about an outcome. With
    `refuses`, Kafka refuses every transaction with a turn of that partition."""

    def __init__(self, kafka: Kafka, name: str) -> None:
        super().__init__(
            kafka=KafkaAccess(""), transactional_id=lambda: name, metadata=OffsetMetadata, topic="", held=lambda *_: {}
        )
        self.ending = Ending.DONE
        self.away = False
        self.refuses: int | None = None
        self._kafka = kafka
        self._epoch = 0

    def _produce(self, turns: Sequence[TurnContents]) -> None:
        """Does nothing: the model gets turns when they are committed."""

    def commit(self, sent: Sent) -> list[Ends]:
        if self.ending is Ending.LOST:
            raise OutcomeUnknown("not committed")
        if any(number == self.refuses for _, number in sent.held):
            raise CommitFailed("toy-out refused a record")
        entries: list[tuple[TopicPart, Entry]] = []
        for turn in sent.turns:
            entries += [
                ((o.topic, -1 if o.partition is None else o.partition), Entry(o.key, o.value)) for o in turn.outputs
            ]
            entries += [((rows.topic, rows.partition), Entry(*change)) for rows in turn.rows for change in rows.changes]
        self._kafka.commit(self.member, (self.id, self._epoch), entries, sent.held)
        if self.ending is Ending.UNANSWERED:
            raise OutcomeUnknown("no answer")
        return self._asked_ends(sent.turns)

    def reopen(self, sent: Sent | None, seconds: float = 0.0) -> list[Ends] | None:  # noqa: ARG002  # it takes no time
        if self.away:
            raise Unreachable("Kafka is unavailable")
        self._epoch = self._kafka.open(self.id)
        return self._asked_ends(sent.turns) if sent is not None and self.has_happened(sent, self._kafka.held) else None

    def _asked_ends(self, turns: Sequence[TurnContents]) -> list[Ends]:
        topics = self._kafka.topics
        return [{rows.topic: len(topics[rows.topic, rows.partition]) for rows in turn.rows} for turn in turns]


class Slow(SerialExecutor):
    """An executor that runs its next job only in `run_one`."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.names: list[str] = []  # of the functions that wait

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        self.names.append(getattr(fn, "__name__", ""))
        return future

    def run_one(self) -> None:
        future, work = self.waiting.pop(0)
        self.names.pop(0)
        try:
            future.set_result(work())
        except (CommitFailed, Unreachable) as error:
            future.set_exception(error)
