"""The contract between a stage and the engine: the stage's sources, its tables, and one pure function.

Enters: records of the sources, results of calls, and views of mirrored topics. Leaves: a Decision.

`decide(inputs, state, now) -> Decision` holds the whole logic of a stage. It does no I/O and reads no clock: what it needs from outside is
an input that the stage declares. Guaranteed: the rows that it changes, its outputs, its refusals and the offsets of its sources become
visible together, in one Kafka transaction, or not at all; the calls that it asks for start only after that transaction has committed. The
engine knows no message and no channel.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from tables.layout import Layout
from tables.table import Table

Tables = Mapping[str, Table[Any]]
Headers = Sequence[tuple[str, str | bytes | None]]
S = TypeVar("S")
V = TypeVar("V")


class Record(NamedTuple):
    """One Kafka record, undecoded. `timestamp` is Unix time in milliseconds. Names of headers are text, values bytes or None."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Handed(Record):
    """A record that an earlier stage of a chain handed over within the turn. It was never in Kafka: its offset is -1. `content` is the
    value as a typed record, None when the earlier stage gave bytes only. `origin` says in words where the record came from."""

    content: Any = None
    origin: str = ""


class Result(NamedTuple):
    """A finished call. `value` is what `Stage.perform` returned. `at` is when it returned, Unix milliseconds, 0 when that is not known; the
    turn that gets the result is later."""

    call: "Call"
    value: Any
    at: int = 0


class Reading(NamedTuple):
    """How far a partition's sources are read; filled only for a stage with `hands_over`.

    `behind` are source topics with unread records in Kafka which were there when the partition started, or which the partition itself has
    produced since. `mark` is the value of the header that such own records get; it differs from start to start of a partition.
    """

    behind: frozenset[str] = frozenset()
    mark: bytes = b""


class View(Generic[V]):
    """The latest value of each key of a mirrored topic. Read only. It does not change during a decision, and it may change between two."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[bytes, V]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> V | None:
        return self._values.get(key)


class EndOf(NamedTuple):
    """The value of the result of a call with `end_of`. Both mappings are partition of the mirrored topic -> offset.

    `position` is how far the mirror had read when the call started, `end` is where the topic ended after that. When a stage gets the
    result, its view holds everything before `end`.
    """

    topic: str
    position: Mapping[int, int]
    end: Mapping[int, int]


class Room(NamedTuple):
    """How many calls may start. `free`: so many calls this decision may ask for. `running`: name of `Call.shares` -> calls that all
    partitions of the worker have asked for or are making now."""

    free: int = 0
    running: Mapping[str, int] = MappingProxyType({})


class Inputs(NamedTuple):
    """The inputs of one turn. Any of them may be empty, all of them too when only the time has come (`Stage.next_due`).

    `records` are in offset order for each source partition; there are about `Stage.turn_records` of them at most. `results` are finished
    calls, the oldest first. With `closing` the partition is being given up: calls that this decision asks for are not made. `views` are
    the stage's mirrored topics by name.
    """

    records: Sequence[Record]
    results: Sequence[Result]
    closing: bool = False
    reading: Reading = Reading()
    views: Mapping[str, View[Any]] = MappingProxyType({})
    room: Room = Room()


class Output(NamedTuple):
    """One record to produce, to the partition with this number, or by the key's murmur2 hash when `partition` is None. A `value` of None is
    a tombstone.

    `content` is the value as a typed record, for a later stage of the same chain. `origin` is where the record comes from, as the text
    `topic partition offset`. Neither goes to Kafka.
    """

    topic: str
    key: bytes
    value: bytes | None
    partition: int | None
    headers: Headers = ()
    content: Any = None
    origin: str = ""


class Refusal(NamedTuple):
    """A record that goes to dead-letters with its original bytes. `cause` is a code of schemas/causes.py, `detail` says what is wrong."""

    record: Record
    cause: str
    detail: str
    tenant_id: str = "default"
    stage: str = ""  # the stage of a chain that refused it; empty outside a chain


class Call(NamedTuple):
    """Work outside Kafka. It starts after the turn's transaction has committed, and its result is an input of a later turn.

    `key` names the call in errors, `request` is for `Stage.perform`. While the call runs it counts under each name of `shares` (an account,
    a tenant) in `Room.running`. With `end_of`, the name of a mirrored topic, the engine answers the call itself: it asks Kafka where the
    topic ends now, waits until the mirror has read so far, and gives an EndOf as the result.
    """

    key: str
    request: Any
    end_of: str | None = None
    shares: tuple[str, ...] = ()


class Part(NamedTuple):
    """What one stage of a chain did in a turn, for the metrics: numbers of records and outputs, and the counters of its decision."""

    stage: str
    records: int
    outputs: int
    counts: Mapping[str, int]


@dataclass(slots=True)
class Decision:
    """What follows from the inputs of a turn. Changed rows are not in it: a stage writes them to its tables, and the engine collects them.

    A stage fills `outputs`, `refusals`, `calls` and `counts`; a sink `writes` and `offsets` too. The rest is for chains.
    """

    outputs: list[Output] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    # counter name -> how often; counted when the turn has committed
    counts: dict[str, int] = field(default_factory=dict)
    # of a sink: what `Stage.write` writes after the commit; None when there is nothing to write
    writes: Any = None
    # (topic, partition) -> offset to commit instead of the end of the turn's records; the group's offset never moves back
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    # of a chain: what each stage did; by topic, the records handed over, those produced to Kafka instead (detours), and the detours read
    # again from Kafka; and how many copies, produced for other readers, were skipped
    parts: list[Part] = field(default_factory=list)
    handed: Counter[str] = field(default_factory=Counter)
    detours: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    copies: int = 0

    def count(self, name: str, times: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + times


@dataclass(frozen=True, slots=True)
class Source:
    """One source topic. With `first`, a partition takes no other source until it has read this one to its end once after a start. With
    `compacted`, only the newest record of a key matters, so that the topic may have cleanup.policy=compact."""

    topic: str
    first: bool = False
    compacted: bool = False


class Mirrored(NamedTuple):
    """A small compacted topic that the engine keeps in memory as a whole; the stage sees it as a View.

    `decode` gets the key and the value of a record and returns the value for the view. It runs in the mirror's thread, so that it must not
    touch the stage. A ValueError means that the record does not belong there: it is logged, and the key keeps its former value. Any other
    error ends the worker.
    """

    topic: str
    decode: Callable[[bytes, bytes], Any]


class Stage(ABC, Generic[S]):
    """One step of the pipeline, for all partitions of one worker. Only `open` and `decide` must be written; the rest has a default.

    Where it runs: the engine makes all calls in the worker's event loop, never two at a time; only the coroutines (`perform`, `start`,
    `stop`, `positions`, `write`) may await, and others run meanwhile. Blocking: no method may block, not even a coroutine between two
    awaits: it would stop all partitions of the worker. A loop that does not run for `stuck_seconds` ends the worker. Heartbeats to the
    group are sent by another thread, so that a slow decision does not cost the membership.

    State: everything of one partition is in its tables and in the state that `open` derives from them. A stage object may hold settings,
    connections and caches for the whole worker; of these, decisions may depend on the settings only. A partition's own methods (`next_due`,
    `wants_calls`, `takes`, `is_done`) look at the state and must not change it; only `decide` may change the state and the tables.

    Rebalance: before partitions are taken away, the engine lets each finish its turn, waits up to half the session time-out for its calls,
    and decides once more on their results, with `Inputs.closing`. A partition that comes back, or that stays, starts again with a new state
    from `open`. So nothing that a later turn needs may be in the state alone, and a call that must not be forgotten needs a row, written in
    the decision that asks for the call.
    """

    name: str
    sources: tuple[Source, ...]  # co-partitioned: all topics of a stage have the same number of partitions
    tables: ClassVar[tuple[Layout[Any], ...]] = ()
    # of a chain: outputs are handed to later stages within a turn, and `Inputs.reading` is filled
    hands_over: bool = False
    one_changelog: bool = False  # all tables share one changelog topic; the table's name is part of each key
    mirrored: tuple[Mirrored, ...] = ()
    # bounds of one turn, so that latency stays low under load: records, and milliseconds that its decision should take at most
    turn_records: int = 2000
    turn_ms: int = 250
    most_calls: int = 500  # in flight, of all partitions of a worker together
    # fetches of the sources: Kafka answers as soon as so many bytes are there, or after so long with what there is
    fetch_min_bytes: int = 1
    fetch_wait_ms: int = 500
    fetch_gather_ms: int = 0  # while records arrive all the time, Kafka answers a fetch after so long; 0: never wait
    # the shortest time from the end of a partition's transaction to its next turn, unless that turn is full
    linger_ms: int = 0

    @abstractmethod
    def open(self, partition: int, tables: Tables) -> S:
        """The state of a partition, derived from its tables (name -> Table).

        Called when the partition has been restored, at each start of it (so after each rebalance), and after a decision that raised: what
        a former state had derived is forgotten. The same rows must give an equal state. Reads the tables and must not write to them, does
        no I/O, and must not share anything with other partitions. What it raises ends the worker.
        """

    @abstractmethod
    def decide(self, inputs: Inputs, state: S, now: int) -> Decision:
        """The logic of the stage: changes the rows and the state, and returns the rest. `now` is Unix time in milliseconds.

        Pure: it depends on nothing but its arguments and the partition's tables, does no I/O, reads no clock, uses no randomness and does
        not wait (tests/support/purity.py checks this). The same inputs, state, views and time must give the same decision.

        It handles every record: with an output, a row, a refusal, or on purpose with nothing. A record that it cannot use is a Refusal,
        not an exception. An exception is taken for a bug that one record brings to light: all changes of the turn are rolled back, `open`
        makes a new state, the engine finds the record by halving and refuses it as `decision_failed`. When too many records do this, or
        no record is the reason, the worker ends with the bug's place and nothing of the turn is committed. An output or a row that is too
        large for Kafka is refused in the same way, as `too_large_for_kafka`. StoreFailed from a table must pass through.

        A returned decision either commits as a whole, or this worker never uses its memory of the partition again.
        """

    def next_due(self, state: S) -> int | None:  # noqa: ARG002  # the default has no use for it
        """When the stage wants a turn although nothing arrives, Unix milliseconds; None for never.

        Asked often, so it must be cheap. That turn has to move the time or make it None: a time in the past brings turn after turn.
        """
        return None

    def wants_calls(self, state: S, room: Room) -> bool:  # noqa: ARG002  # the default has no use for them
        """Whether a decision with this room would ask for at least one call although nothing arrives and no time is due.

        Asked often and with different rooms, also for decisions of other partitions that share the worker's bound; must be cheap.
        """
        return False

    def takes(self, topic: str, state: S) -> bool:  # noqa: ARG002  # the default has no use for them
        """False holds a source back while the others continue: a few turns' records wait in memory, the rest in Kafka.

        Asked before each turn. A result, a time that is due or a record of another source must make the stage take it again: the watchdog
        does not end a worker for a source that is held back.
        """
        return True

    def turn_delay(self, partition: int) -> float:  # noqa: ARG002  # the default has no use for it
        """Seconds for which the partition's next turn, whose records are there, has to wait for turns of other partitions; 0: not at all.

        Asked again after that time, and when something arrives, until it is 0. Not asked when the turn is full, when the partition is being
        given up, or when records are taken one by one.
        """
        return 0.0

    def is_done(self, state: S) -> bool:  # noqa: ARG002  # the default has no use for it
        """Whether nothing is left to do with the records that were read, asked when all sources were read to their ends. Then the group's
        offsets may move to the very ends, past the markers of transactions."""
        return True

    async def perform(self, call: Call) -> Any:
        """Makes a call; what it returns is the `value` of a Result. A task of the event loop; up to `most_calls` run at a time.

        Must not raise (an error is a return value; an exception ends the worker) and must end in bounded time by itself. At a rebalance the
        engine waits for it up to half the session time-out. After that it continues; it is cancelled when its partition goes to another
        worker. After a crash it is not known whether the call took place: the next `open` finds the row of the intent.
        """
        raise NotImplementedError(f"{self.name} asks for no calls, got {call.key}")

    async def start(self) -> None:
        """Opens what the stage holds for the whole worker (connections, caches). Called once, with the first assignment, before the first
        partition is opened. What it raises ends the worker, except a KafkaException: then the engine calls it again for a while."""

    async def stop(self) -> None:
        """Closes what `start` opened. Called when the worker ends in good order, after the last turn, also when `start` never ran."""

    async def positions(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:  # noqa: ARG002  # the default has no use for it
        """For a sink: (topic, partition) -> the offset from which to read; a source that is missing starts at its committed offset.

        Called at each start of the worker's partitions, for the sources of all of them, while nothing is read. What it raises ends the
        worker, except a KafkaException: then the engine calls it again for a while.
        """
        return {}

    async def write(self, decision: Decision) -> None:
        """For a sink: writes `decision.writes` to the outside. Called after the commit of every turn, also when there is nothing to write.

        The partition's next turn waits for it; other partitions continue, and their writes may run at the same time. Must wait for a
        database that is unavailable (`/health` shows such a partition as stuck, and the watchdog leaves it alone); what it raises ends the
        worker. A crash or a rebalance before it returns may repeat the same records, so that the sink must recognize them, usually by
        offsets of its own (`positions`). At a rebalance the engine waits for it for 45 s, then the worker ends.
        """
