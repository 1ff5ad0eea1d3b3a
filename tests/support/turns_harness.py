"""One partition of a toy stage with all its parts, for tests of the turns: its transactions go to a journal instead of Kafka."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.engine.batch_queue import Batch
from pipelines.engine.calls import Budget
from pipelines.engine.connection_state import ConnectionState
from pipelines.engine.crash_loop import OneAtATime
from pipelines.engine.kafka_sizes import KafkaSizes
from pipelines.engine.membership import Member
from pipelines.engine.mirrors import Mirrors
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.poison import LIMIT
from pipelines.engine.serial_executor import SerialExecutor
from pipelines.engine.stage import Call, Decision, Inputs, Output, Record, Refusal, Source, Stage, Tables
from pipelines.engine.transactions import CommitFailed, Ends, Sent, Transactions, TurnContents
from pipelines.engine.turns import Partition
from pipelines.engine.writer import REST_SECONDS, Writer
from schemas.kafka_access import KafkaAccess
from schemas.records import DeadLetter
from tables.layout import Layout
from tables.sequences import SEQUENCES
from tables.sequences import Sequence as Row
from tables.stores.memory import MemoryTable
from tables.table import Table
from tests.support.builders import NOW, decoded, raw

SOON = 5.0  # seconds that a test waits at most for what must happen
CHANGELOG = "toy-sequences-changelog"


# --- the toy ------------------------------------------------------------------------------------------------------------


@dataclass
class ToyState:
    rows: Table[Row]
    opened: int  # which opening of the partition made this state


class Toy(Stage[ToyState]):
    """Counts records by their key and makes an output for each. Some values do more: boom, both, refuse, call, calls."""

    name = "toy"
    tables: ClassVar[tuple[Layout[Any], ...]] = (SEQUENCES,)

    def __init__(self, *sources: Source) -> None:
        self.sources = sources or (Source("a"), Source("b"))
        self.held: set[str] = set()
        self.place: Callable[[], float] = lambda: 0.0  # seconds of its turn delay
        self.due: int | None = None
        self.broken = False
        self.seconds_a_record = 0.0
        self.raises: Exception | None = None
        self.opened = 0
        self.turns: list[list[str]] = []
        self.performed: list[str] = []
        self.performed_before: list[int] = []  # calls that had begun when a decision was made
        self.committed = 0
        self.sink = asyncio.Event()
        self.sink.set()
        self.answer = asyncio.Event()
        self.kept: list[Refusal] = []
        self.offsets: dict[tuple[str, int], int] = {}

    def open(self, partition: int, tables: Tables) -> ToyState:  # noqa: ARG002  # a partition's number means nothing here
        self.opened += 1
        return ToyState(tables["sequences"], self.opened)

    def next_due(self, state: ToyState) -> int | None:  # noqa: ARG002  # the test says
        return self.due

    def takes(self, topic: str, state: ToyState) -> bool:  # noqa: ARG002  # the test says
        return topic not in self.held

    def turn_delay(self, partition: int) -> float:  # noqa: ARG002  # the test has one partition
        return self.place()

    def decide(self, inputs: Inputs, state: ToyState, now: int) -> Decision:
        if self.raises is not None:
            raise self.raises
        if self.broken:
            raise RuntimeError("broken")
        time.sleep(self.seconds_a_record * len(inputs.records))
        decision = Decision(refusals=list(self.kept), offsets=dict(self.offsets))
        self.due = None if self.due is not None and self.due <= now else self.due
        self.turns.append([(each.value or b"").decode() for each in inputs.records])
        self.performed_before.append(len(self.performed))
        for each in inputs.records:
            self.take(each, state, decision)
        for result in inputs.results:
            decision.outputs.append(Output("out", result.call.key.encode(), result.value, 0))
            if result.call.request == "calls" and not inputs.closing:
                decision.calls.append(Call(f"{result.call.key}'", "calls"))
        if {b"both", b"BOTH"} <= {each.value for each in inputs.records}:
            raise RuntimeError("only together")
        return decision

    def take(self, each: Record, state: ToyState, decision: Decision) -> None:
        key = each.key or b""
        before = state.rows.get(key)
        state.rows.put(key, Row(1 if before is None else before.seq + 1))
        if each.value == b"boom":
            raise ValueError("boom, after the row was changed")
        if each.value == b"refuse":
            decision.refusals.append(Refusal(each, "not_avro", "as asked"))
            return
        decision.outputs.append(Output("out", key, each.value or b"", 0))
        if each.value and each.value.startswith(b"call"):
            decision.calls.append(Call(key.decode(), each.value.decode()))

    async def perform(self, call: Call) -> Any:
        self.performed.append(call.key)
        await self.answer.wait()
        if call.request == "call, and fail":
            raise RuntimeError("a stage must not")
        return b"answered"

    async def write(self, decision: Decision) -> None:  # noqa: ARG002  # only counted
        await self.sink.wait()
        self.committed += 1


@dataclass
class Committed:
    """One transaction."""

    outputs: list[Output]
    rows: list[tuple[str, int, bytes, bytes | None]]
    offsets: dict[tuple[str, int], int]
    starts: int
    trying: tuple[str, int] | None


class Journal(Transactions):
    """Transactions that are recorded instead of being sent to Kafka."""

    def __init__(self) -> None:
        super().__init__(
            kafka=KafkaAccess(""),
            transactional_id=lambda: "toy-0",
            metadata=OffsetMetadata,
            topic="",
            held=lambda *_: {},
        )
        self.committed: list[Committed] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()  # a commit waits for it in its thread
        self.gate.set()
        self.begun = 0
        self.together: list[int] = []  # how many turns each transaction had
        self.refused: bytes | None = None  # the value of an output that Kafka does not take
        self.reopened: list[Sent | None] = []
        self.heals = False  # whether a failure ends when the producer is opened again
        self.happened = False  # what the group says about a turn whose outcome is not known

    def _produce(self, turns: Sequence[TurnContents]) -> None:
        """Records nothing: a turn is recorded when it is committed."""

    def commit(self, sent: Sent) -> list[Ends]:
        self.begun += 1
        self.gate.wait(SOON)
        if self.failure is not None:
            raise self.failure
        if any(output.value == self.refused is not None for turn in sent.turns for output in turn.outputs):
            raise CommitFailed("toy-0: commit: out refused a record: too large")
        self.together.append(len(sent.turns))
        for turn in sent.turns:
            rows = [(rows.topic, rows.partition, key, value) for rows in turn.rows for key, value in rows.changes]
            self.committed.append(Committed(list(turn.outputs), rows, dict(turn.offsets), turn.starts, turn.trying))
        return [{} for _ in sent.turns]

    def reopen(self, sent: Sent | None, seconds: float = 0.0) -> list[Ends] | None:  # noqa: ARG002  # it takes no time
        self.reopened.append(sent)
        if self.heals:
            self.failure = None
        return [{} for _ in sent.turns] if sent is not None and self.happened else None

    def outputs(self) -> list[str]:
        """Values produced to `out` by all transactions, in order."""
        return [(each.value or b"").decode() for one in self.committed for each in one.outputs if each.topic == "out"]

    def letters(self) -> list[DeadLetter]:
        return [each for one in self.committed for each in decoded(one.outputs, "dead-letters", DeadLetter)]

    def position(self, topic: str) -> int | None:
        return next((one.offsets[topic, 0] for one in reversed(self.committed) if (topic, 0) in one.offsets), None)


def no_mirrors() -> Mirrors:
    """The mirrors of a stage that mirrors no topic; Kafka is never asked."""
    return Mirrors(kafka=KafkaAccess("127.0.0.1:1"), ends=lambda _: {}, fail=lambda _: None)


class Bench:
    """One partition of the toy stage with all its parts."""

    def __init__(self, *, rest_seconds: float = REST_SECONDS) -> None:
        self.stage = Toy()
        self.journal = Journal()
        self.tables: dict[str, MemoryTable[Any]] = {"sequences": MemoryTable(SEQUENCES)}
        self.failures: list[str] = []
        self.fenced: list[int] = []
        self.released: list[str] = []
        self.mirrors = no_mirrors()
        self.now: Callable[[], int] = lambda: NOW
        self.connection = ConnectionState()
        self.writer = Writer(self.journal, SerialExecutor("commit"), self.connection, rest_seconds=rest_seconds)
        self.limits: dict[str, int] = {}  # of topics, where a test has one
        self.ends: dict[str, int] = {}
        self.partition: Partition[ToyState]

    def start(
        self,
        stage: Toy | None = None,
        *,
        committed: Mapping[tuple[str, int], int] | None = None,
        caught_up: Callable[[], bool] = lambda: True,
        drain_seconds: float = SOON,
        poison_limit: int = LIMIT,
        deleted: Mapping[tuple[str, int], tuple[int, int]] | None = None,
    ) -> None:
        self.stage = stage or self.stage
        self.partition = Partition(
            stage=self.stage,
            number=0,
            tables=self.tables,
            changelogs={"sequences": CHANGELOG},
            writer=self.writer,
            mirrors=self.mirrors,
            budget=Budget(self.stage.name, self.stage.most_calls),
            one_at_a_time=OneAtATime(),
            sizes=KafkaSizes(lambda topic: self.limits.get(topic, 1_000_000)),
            fail=self.failures.append,
            fenced=self.fenced.append,
            now=self.now,
            drain_seconds=drain_seconds,
            poison_limit=poison_limit,
        )
        self.partition.start(committed=committed or {}, caught_up=caught_up, deleted=deleted)

    def submit(self, topic: str, *values: str, key: str = "k") -> None:
        """A batch of one source, in offset order."""
        start = self.ends.get(topic, 0)
        records = [raw(topic, each.encode(), key=key.encode(), offset=start + i) for i, each in enumerate(values)]
        self.ends[topic] = start + len(values)
        self.partition.submit(Batch(records, lambda: self.released.append(values[0])))

    async def turned(self, *values: str) -> list[Committed]:
        """Submits a batch of topic a and waits until its turn is over."""
        self.submit("a", *values)
        await until(lambda: values[0] in self.released)
        return self.journal.committed


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds; commits run in threads, so that there is nothing to await."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.001)


async def benched() -> AsyncIterator[Bench]:
    """Yields a bench and stops it afterwards, for the fixtures of the tests."""
    made = Bench()
    await made.writer.open(Member("toy", "a member", 1))
    made.journal.reopened.clear()
    yield made
    made.stage.answer.set()
    made.journal.gate.set()
    if hasattr(made, "partition"):
        made.partition.abandon()
        await made.partition.stop()
    made.writer.close()
