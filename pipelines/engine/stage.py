"""What a stage is to the engine: where its records come from, what it remembers, and one pure function.

decide(inputs, state, now) -> Decision is the stage's whole logic. It does no I/O and reads no clock; what it writes to its
tables, returns as outputs and asks for as calls becomes visible together, in one Kafka transaction, or not at all.
The engine knows no message and no channel.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from tables.layout import Layout
from tables.table import Table

Tables = Mapping[str, Table[Any]]
Headers = Sequence[tuple[str, str | bytes | None]]
S = TypeVar("S")


class Record(NamedTuple):
    """One Kafka record as it came. `timestamp` is Unix time in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Result(NamedTuple):
    """A finished call: what was asked and what came back."""

    call: "Call"
    value: Any


class Room(NamedTuple):
    """What the worker has for calls: `free` more may be asked for by this decision, and `running` says how many all its partitions make
    now, by each name of `Call.shares`."""

    free: int = 0
    running: Mapping[str, int] = MappingProxyType({})


class Inputs(NamedTuple):
    """What one turn decides on: records in offset order per source partition, then calls that finished, and the room for new ones.

    `closing` says that the partition is being given up: a call asked for now would not be made.
    """

    records: Sequence[Record]
    results: Sequence[Result]
    closing: bool = False
    room: Room = Room()


class Output(NamedTuple):
    """One record to produce; to a partition by number, or by the key's hash when `partition` is None. No value is a tombstone."""

    topic: str
    key: bytes
    value: bytes | None
    partition: int | None
    headers: Headers = ()


class Refusal(NamedTuple):
    """A record that goes to dead-letters with its original bytes. `cause` is a code of schemas/causes.py."""

    record: Record
    cause: str
    detail: str
    tenant_id: str = "default"


class Call(NamedTuple):
    """Work outside Kafka, started after the turn's transaction committed; its result comes back to a later turn. While it runs it counts
    under each name of `shares` (an account, a tenant)."""

    key: str
    request: Any
    shares: tuple[str, ...] = ()


@dataclass(slots=True)
class Decision:
    """What a turn decided. Rows are written to the tables directly; the engine collects what changed."""

    outputs: list[Output] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    # counter name -> how often: counted once the turn has committed
    counts: dict[str, int] = field(default_factory=dict)
    # for sinks: what `Stage.settle` writes after the commit
    writes: Any = None
    # (topic, partition) -> offset to commit instead of the turn's end
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)

    def count(self, name: str, times: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + times


@dataclass(frozen=True, slots=True)
class Source:
    """One source topic. With `first`, a partition takes nothing else until it has read this one up to its end at start. With
    `compacted`, only the newest record of a key counts, so Kafka may drop the others."""

    topic: str
    first: bool = False
    compacted: bool = False


class Stage(ABC, Generic[S]):
    """One step of the pipeline. Only `decide` and `open` must be written; the rest has a default that does nothing.

    No method may block. Only `decide` may raise, and only on a bug: the engine then isolates the record that caused it.
    """

    name: str
    sources: tuple[Source, ...]
    tables: ClassVar[tuple[Layout[Any], ...]] = ()
    # bounds of one turn, so that latency stays low when the load is high: records, and milliseconds of its decision
    turn_records: int = 2000
    turn_ms: int = 250
    most_calls: int = 500  # in flight, of all partitions of a worker together
    # of its sources: Kafka answers a fetch as soon as so many bytes are there, or after so long with what there is
    fetch_min_bytes: int = 1
    fetch_wait_ms: int = 500
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

    async def settle(self, decision: Decision) -> None:
        """Writes `decision.writes` to the outside after the commit; the partition's next turn waits for it."""
