"""What a stage is to the engine: where its records come from, what it remembers, and one pure function.

decide(inputs, state, now) -> Decision is the stage's whole logic. It does no I/O and reads no clock: what it needs from outside is an
input that the stage declares. What it writes to its tables, returns as outputs and asks for as calls becomes visible together, in one
Kafka transaction, or not at all. The engine knows no message and no channel.
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
    """One Kafka record as it came. `timestamp` is Unix time in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Handed(Record):
    """A record that the stage before handed over within the turn, and that was never in Kafka: its offset is -1. `content` is the value
    as the typed record it is, None when only the bytes were given; `origin` says in words where it came from."""

    content: Any = None
    origin: str = ""


class Result(NamedTuple):
    """A finished call: what was asked and what came back, and when, Unix milliseconds; the turn that takes it comes later. 0: not known."""

    call: "Call"
    value: Any
    at: int = 0


class Reading(NamedTuple):
    """How far a partition's sources are read. `behind` are topics of which records wait in Kafka that were there when the partition
    started, or that it has put there itself since; `mark` is what it marks those with."""

    behind: frozenset[str] = frozenset()
    mark: bytes = b""


class View(Generic[V]):
    """What a mirrored topic holds: the latest value of each key. Read only, and the same from the beginning of a decision to its end."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[bytes, V]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> V | None:
        return self._values.get(key)


class EndOf(NamedTuple):
    """The result of a call with `end_of`: offsets by partition of the mirrored topic. `stood` is where the mirror stood and `end` where
    the topic ended after the call had been asked for; the view holds everything before `end` by now."""

    topic: str
    stood: Mapping[int, int]
    end: Mapping[int, int]


class Room(NamedTuple):
    """What the worker has for calls: `free` more may be asked for by this decision, and `running` says how many all its partitions make
    now, by each name of `Call.shares`."""

    free: int = 0
    running: Mapping[str, int] = MappingProxyType({})


class Inputs(NamedTuple):
    """What one turn decides on: records in offset order per source partition, then calls that finished, and the room for new ones.

    `closing` says that the partition is being given up: a call asked for now would not be made. `views` are the stage's mirrored topics,
    by name.
    """

    records: Sequence[Record]
    results: Sequence[Result]
    closing: bool = False
    reading: Reading = Reading()
    views: Mapping[str, View[Any]] = MappingProxyType({})
    room: Room = Room()


class Output(NamedTuple):
    """One record to produce; to a partition by number, or by the key's hash when `partition` is None. No value is a tombstone.

    `content` is the value as a typed record, for a stage of the same worker that takes it; `origin` the place of the record it comes from,
    as `topic partition offset`.
    """

    topic: str
    key: bytes
    value: bytes | None
    partition: int | None
    headers: Headers = ()
    content: Any = None
    origin: str = ""


class Refusal(NamedTuple):
    """A record that goes to dead-letters with its original bytes. `cause` is a code of schemas/causes.py."""

    record: Record
    cause: str
    detail: str
    tenant_id: str = "default"
    stage: str = ""  # which refused it, within a chain


class Call(NamedTuple):
    """Work outside Kafka, started after the turn's transaction committed; its result comes back to a later turn. While it runs it counts
    under each name of `shares` (an account, a tenant).

    With `end_of`, the name of a mirrored topic, the engine does it instead of the stage: it asks where the topic ends now, waits until the
    mirror has come so far, and answers with an EndOf.
    """

    key: str
    request: Any
    end_of: str | None = None
    shares: tuple[str, ...] = ()


class Part(NamedTuple):
    """What one stage of a chain did in a turn, for the metrics: records taken, outputs made, and what was counted."""

    stage: str
    records: int
    outputs: int
    counts: Mapping[str, int]


@dataclass(slots=True)
class Decision:
    """What a turn decided. Rows are written to the tables directly; the engine collects what changed."""

    outputs: list[Output] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    # counter name -> how often: counted once the turn has committed
    counts: dict[str, int] = field(default_factory=dict)
    # for sinks: what `Stage.write` writes after the commit
    writes: Any = None
    # (topic, partition) -> offset to commit instead of the turn's end
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    # of a chain: its stages' parts; records handed over, sent through Kafka instead, and come back from there, by topic; and how many
    # copies for others were passed over
    parts: list[Part] = field(default_factory=list)
    handed: Counter[str] = field(default_factory=Counter)
    detours: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    copies: int = 0

    def count(self, name: str, times: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + times


@dataclass(frozen=True, slots=True)
class Source:
    """One source topic. With `first`, a partition takes nothing else until it has read this one up to its end at start. With
    `compacted`, only the newest record of a key counts, so Kafka may drop the others."""

    topic: str
    first: bool = False
    compacted: bool = False


class Mirrored(NamedTuple):
    """A small compacted topic that the engine keeps whole in memory for the stage, which sees it as a View. `decode` gets key and value of
    a record; it raises ValueError for what does not belong there, and the former value stays."""

    topic: str
    decode: Callable[[bytes, bytes], Any]


class Stage(ABC, Generic[S]):
    """One step of the pipeline. Only `decide` and `open` must be written; the rest has a default that does nothing.

    No method may block. Only `decide` may raise, and only on a bug: the engine then isolates the record that caused it.
    """

    name: str
    sources: tuple[Source, ...]
    tables: ClassVar[tuple[Layout[Any], ...]] = ()
    hands_over: bool = False  # whether outputs are handed on within a turn
    one_changelog: bool = False  # for all tables together; their names are in the keys
    mirrored: tuple[Mirrored, ...] = ()
    # bounds of one turn, so that latency stays low when the load is high: records, and milliseconds of its decision
    turn_records: int = 2000
    turn_ms: int = 250
    most_calls: int = 500  # in flight, of all partitions of a worker together
    # of its sources: Kafka answers a fetch as soon as so many bytes are there, or after so long with what there is
    fetch_min_bytes: int = 1
    fetch_wait_ms: int = 500
    fetch_gather_ms: int = 0  # while records come all the time, a fetch gathers for so long; 0: never
    linger_ms: int = 0  # turns keep this distance and gather company meanwhile; after a longer silence none waits

    @abstractmethod
    def open(self, partition: int, tables: Tables) -> S:
        """The state of a partition: its tables, and what can be derived from them. Called when a partition starts, and again
        after a decision raised (whatever it had derived is forgotten)."""

    @abstractmethod
    def decide(self, inputs: Inputs, state: S, now: int) -> Decision:
        """The stage's logic. `now` is Unix time in milliseconds."""

    def next_due(self, state: S) -> int | None:  # noqa: ARG002  # the default has no use for it
        """When a turn is wanted although nothing arrives, Unix milliseconds; None for never."""
        return None

    def wants_calls(self, state: S, room: Room) -> bool:  # noqa: ARG002  # the default has no use for them
        """Whether a turn with this room would ask for a call although nothing arrives and nothing is due."""
        return False

    def takes(self, topic: str, state: S) -> bool:  # noqa: ARG002  # the default has no use for them
        """False holds a source back (its records wait in Kafka) while the others go on."""
        return True

    def turn_delay(self, partition: int) -> float:  # noqa: ARG002  # the default has no use for it
        """Seconds for which a turn of the partition, whose records are there, is to wait for its place among the worker's partitions.
        Asked again and again until it is 0; not asked when the turn is full, or the partition in a hurry."""
        return 0.0

    def is_done(self, state: S) -> bool:  # noqa: ARG002  # the default has no use for it
        """Whether all that was read is done with, when nothing more is there: then the group's offset may move to the very end."""
        return True

    async def perform(self, call: Call) -> Any:
        """Does a call; its return value comes back as a Result. Raising ends the worker."""
        raise NotImplementedError(f"{self.name} asks for no calls, got {call.key}")

    async def start(self) -> None:
        """Opens what the stage holds for the whole worker (connections, caches), before the first partition starts."""

    async def stop(self) -> None:
        """Closes what `start` opened."""

    async def positions(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:  # noqa: ARG002  # the default has no use for it
        """Where a sink wants to be read from, by (topic, partition); what is missing starts at the committed offset."""
        return {}

    async def write(self, decision: Decision) -> None:
        """Writes `decision.writes` to the outside after the commit; the partition's next turn waits for it."""
