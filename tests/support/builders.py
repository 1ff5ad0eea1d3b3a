"""Records for the tests of the stages: every field has a value, and a test names only those it is about.

All functions are pure. `Desk` is one partition of one stage as the engine sees it, with its committed rows, so that a test can crash it. It
checks that decisions are pure (tests/support/purity.py): the first ones, and then every tenth, because the check is slow.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, settings

from connectors import registry
from pipelines.engine.stage import Call, Decision, EndOf, Inputs, Output, Record, Result, Room, Stage, View
from schemas import codec, records, tracker
from schemas.keys import conversation_key, key_of
from schemas.partitions import home_partition
from schemas.records import (
    Address,
    Binding,
    Cause,
    Choice,
    Conversation,
    Cursor,
    CursorReport,
    Delivery,
    DeliveryRef,
    DeliveryState,
    Erasure,
    InboundMessage,
    Message,
    Preference,
    Receipt,
    ReceiptStatus,
    Recipient,
    SequencedMessage,
    Status,
    StatusUpdate,
    Suppression,
    Window,
)
from schemas.tracker import Keys
from tables.stores.memory import MemoryTable
from tests.support.purity import purely

NOW = 1_700_000_000_000
OBSERVED = registry.OBSERVED
PARTITIONS = 4
TRACKER_KEYS = Keys((b"a key that signs trackers of tests",))
GUARDED = 50  # first decisions of a Desk that are all checked to be pure; of later ones, some are
S = TypeVar("S")
R = TypeVar("R", bound=records.Record)

# The same examples in every run, on any machine: a test fails everywhere or nowhere.
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def examples(number: int, *, steps: int = 50) -> settings:
    """`number` examples of a property; `steps` steps each for a state machine."""
    return settings(
        max_examples=number,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=CHECKS,
    )


def conversation_at_home(
    partition: int, *, number: int = 0, partitions: int = PARTITIONS, tenant_id: str = "default"
) -> str:
    """The id of a tenant's conversation with this home partition; another one for each `number`."""
    names = (f"conv-{i}" for i in range(100_000))
    at_home = (name for name in names if home_partition(conversation_key(tenant_id, name), partitions) == partition)
    return next(name for i, name in enumerate(at_home) if i == number)


HERE = conversation_at_home(0)


def message(message_id: str = "msg-1", **changes: Any) -> Message:
    """One text to one WhatsApp address, in a conversation with home partition 0."""
    fields: dict[str, Any] = {
        "message_id": message_id,
        "conversation_id": HERE,
        "sender": "shop",
        "recipients": (to_address("15550001"),),
        "text": "olá",
        "requested_at": NOW - 50,
    }
    return Message(**(fields | changes))


def to_address(address: str, *, channel: str | None = "whatsapp", user_id: str | None = None) -> Recipient:
    return Recipient(channel=channel, address=address, user_id=user_id)


def to_user(user_id: str, *, channel: str | None = None) -> Recipient:
    return Recipient(user_id=user_id, channel=channel)


def cursor(**changes: Any) -> Cursor:
    fields: dict[str, Any] = {
        "home_partition": 0,
        "version": 1,
        "last_delivered_seq": 2,
        "last_read_seq": 1,
        "newest_seq": 3,
    }
    fields |= {"conversation_id": "c-1", "member": "ana", "changed_at": NOW}
    return Cursor(**(fields | changes))


def cursor_report(**changes: Any) -> CursorReport:
    fields: dict[str, Any] = {
        "event_id": "report-1",
        "conversation_id": HERE,
        "home_partition": 0,
        "channel": "internal",
    }
    fields |= {"account": "app", "address": "ana", "read_up_to": 1, "occurred_at": NOW, "observed_at": NOW}
    return CursorReport(**(fields | changes))


def inbound_message(provider_message_id: str = "wamid.in-1", **changes: Any) -> InboundMessage:
    """What a person wrote to our WhatsApp account."""
    fields: dict[str, Any] = {
        "channel": "whatsapp",
        "account": "acc-1",
        "address": "15550001",
        "kind": "text",
        "text": "oi",
    }
    fields |= {"provider_message_id": provider_message_id, "provider_at": NOW - 100, "received_at": NOW}
    return InboundMessage(**(fields | changes))


def preference(**changes: Any) -> Preference:
    fields: dict[str, Any] = {"event_id": "stop-1", "channel": "whatsapp", "account": "acc-1", "address": "15550001"}
    fields |= {"choice": Choice.STOP, "reason": "blocked", "occurred_at": NOW - 100, "observed_at": NOW}
    return Preference(**(fields | changes))


def suppression(**changes: Any) -> Suppression:
    fields: dict[str, Any] = {"channel": "whatsapp", "account": "acc-1", "address": "15550001", "suppressed": True}
    return Suppression(**(fields | {"reason": "stop_word", "changed_at": NOW} | changes))


def window(**changes: Any) -> Window:
    fields: dict[str, Any] = {"conversation_id": HERE, "home_partition": 0, "channel": "whatsapp", "account": "acc-1"}
    fields |= {"address": "15550001", "opened_at": NOW, "closes_at": NOW + 86_400_000}
    return Window(**(fields | changes))


def erasure(**changes: Any) -> Erasure:
    """The erasure of contact ana, in the conversation with home partition 0."""
    fields: dict[str, Any] = {"erasure_id": "erase-1", "conversation_id": HERE, "home_partition": 0, "person": "ana"}
    fields |= {
        "addresses": (Address(channel="whatsapp", address="15550001", account="acc-1"),),
        "requested_at": NOW + 500,
    }
    return Erasure(**(fields | changes))


def conversation(*members: str, **changes: Any) -> Conversation:
    fields: dict[str, Any] = {"conversation_id": HERE, "members": members, "updated_at": NOW - 500}
    return Conversation(**(fields | changes))


def ref(delivery_id: str = "dlv-1", **changes: Any) -> DeliveryRef:
    fields: dict[str, Any] = {
        "delivery_id": delivery_id,
        "channel": "whatsapp",
        "account": "acc-1",
        "recipient": "ana",
        "address": "15550001",
    }
    return DeliveryRef(**(fields | changes))


def sequenced(*deliveries: DeliveryRef, **changes: Any) -> SequencedMessage:
    fields: dict[str, Any] = {
        "message_id": "msg-1",
        "conversation_id": HERE,
        "home_partition": 0,
        "seq": 1,
        "sender": "shop",
        "kind": "text",
        "text": "olá",
        "requested_at": NOW - 50,
        "accepted_at": NOW,
        "deliveries": deliveries,
    }
    return SequencedMessage(**(fields | changes))


def delivery(delivery_id: str = "dlv-1", **changes: Any) -> Delivery:
    fields: dict[str, Any] = {
        "delivery_id": delivery_id,
        "message_id": f"of-{delivery_id}",
        "conversation_id": HERE,
        "home_partition": 0,
        "seq": 1,
        "channel": "whatsapp",
        "account": "acc-1",
        "recipient": "ana",
        "address": "15550001",
        "kind": "text",
        "text": "olá",
        "requested_at": NOW - 50,
        "accepted_at": NOW - 10,
    }
    return Delivery(**(fields | changes))


def update(event_id: str = "evt-1", **changes: Any) -> StatusUpdate:
    fields: dict[str, Any] = {
        "event_id": event_id,
        "delivery_id": "dlv-1",
        "conversation_id": HERE,
        "home_partition": 0,
        "status": Status.SENT,
        "cause": Cause.RECEIPT,
        "occurred_at": NOW + 100,
        "observed_at": NOW + 200,
    }
    return StatusUpdate(**(fields | changes))


def signed_tracker(said: str, keys: Keys = TRACKER_KEYS) -> str:
    """A signed tracker for the account of `delivery` and `receipt` with any content, as another release or a bug might make it."""
    return f"c4a2|{keys.sign(tracker.to_sign('whatsapp', 'acc-1', said))}{said}"


def receipt(provider_message_id: str = "wamid-1", **changes: Any) -> Receipt:
    status = changes.get("status", ReceiptStatus.DELIVERED)
    fields: dict[str, Any] = {
        "event_id": f"{provider_message_id}:{status}",
        "channel": "whatsapp",
        "account": "acc-1",
        "provider_message_id": provider_message_id,
        "status": status,
        "provider_at": NOW,
        "received_at": NOW + 1500,
    }
    return Receipt(**(fields | changes))


def binding(provider_message_id: str = "wamid-1", delivery_id: str = "dlv-1", **changes: Any) -> Binding:
    fields: dict[str, Any] = {
        "channel": "whatsapp",
        "account": "acc-1",
        "provider_message_id": provider_message_id,
        "delivery_id": delivery_id,
        "conversation_id": HERE,
        "home_partition": 0,
        "bound_at": NOW,
    }
    return Binding(**(fields | changes))


def delivery_state(event_id: str = "evt-1", **changes: Any) -> DeliveryState:
    fields: dict[str, Any] = {
        "event_id": event_id,
        "delivery_id": "dlv-1",
        "message_id": "msg-1",
        "conversation_id": HERE,
        "home_partition": 0,
        "seq": 1,
        "channel": "whatsapp",
        "account": "acc-1",
        "recipient": "ana",
        "address": "15550001",
        "version": 1,
        "previous_status": Status.PENDING,
        "status": Status.PENDING,
        "cause": Cause.CREATED,
        "occurred_at": NOW,
        "observed_at": NOW,
        "requested_at": NOW - 50,
        "accepted_at": NOW,
    }
    return DeliveryState(**(fields | changes))


def raw(topic: str, value: bytes | None, *, key: bytes | None = b"key", **changes: Any) -> Record:
    """A Kafka record with any bytes."""
    fields: dict[str, Any] = {"partition": 0, "offset": 0, "timestamp": NOW - 5, "headers": ()}
    return Record(topic=topic, key=key, value=value, **(fields | changes))


def record(topic: str, content: records.Record, **changes: Any) -> Record:
    """A Kafka record as our own producers make it, with the conversation's key if it has one."""
    key = key_of(content) if hasattr(content, "conversation_id") else b"key"
    return raw(topic, codec.encode(content), **({"key": key} | changes))


def numbered(kafka_records: Sequence[Record], start: int = 0) -> list[Record]:
    """The same records with offsets as a topic gives them, counted for each source partition."""
    ends: dict[tuple[str, int], int] = {}
    placed = []
    for each in kafka_records:
        source = (each.topic, each.partition)
        offset = ends.get(source, start)
        placed.append(each._replace(offset=offset))
        ends[source] = offset + 1
    return placed


def decoded(outputs: Sequence[Output], topic: str, expected: type[R]) -> list[R]:
    """The records produced to a topic, decoded."""
    return [codec.decode(output.value, expected) for output in outputs if output.topic == topic]


class Desk(Generic[S]):
    """One partition of one stage with its committed changelog. A turn is decided, and then committed or lost. `mirrored` has the content of
    the mirrored topics by name; a test may add to it."""

    def __init__(
        self, stage: Stage[S], partition: int = 0, mirrored: Mapping[str, Mapping[bytes, Any]] | None = None
    ) -> None:
        self.partition = partition
        self.decisions = 0
        self.mirrored = {each.topic: dict((mirrored or {}).get(each.topic, {})) for each in stage.mirrored}
        self.changelog: dict[str, dict[bytes, bytes]] = {layout.name: {} for layout in stage.tables}
        self.restart(stage)

    def restart(self, stage: Stage[S]) -> None:
        """A new worker takes the partition over, with the committed rows only."""
        self.stage = stage
        self.tables: Mapping[str, MemoryTable[Any]] = {layout.name: MemoryTable(layout) for layout in stage.tables}
        for name, rows in self.changelog.items():
            for key, value in rows.items():
                self.tables[name].load(key, value)
        self.state = stage.open(self.partition, self.tables)
        self.running: dict[str, Call] = {}
        self._decided: tuple[Sequence[Result], Sequence[Call]] = ((), ())

    def reopen(self) -> None:
        """Derives the state again, as the engine does after a decision that raised, and when a partition stays with its worker."""
        for table in self.tables.values():
            table.rollback()
        self.state = self.stage.open(self.partition, self.tables)

    def decide(
        self,
        kafka_records: Sequence[Record] = (),
        results: Sequence[Result] = (),
        now: int = NOW,
        *,
        closing: bool = False,
    ) -> Decision:
        """Decides a turn without committing it."""
        views: dict[str, View[Any]] = {topic: View(values) for topic, values in self.mirrored.items()}
        inputs = Inputs(list(kafka_records), list(results), closing=closing, views=views, room=self.room(results))
        self.decisions += 1
        with purely() if self.decisions <= GUARDED or self.decisions % 10 == 0 else nullcontext():
            decision = self.stage.decide(inputs, self.state, now)
        self._decided = (results, decision.calls)
        return decision

    def room(self, results: Sequence[Result] = ()) -> Room:
        """The engine's room for calls, for this partition alone, once these calls have ended."""
        running = [call for key, call in self.running.items() if key not in {result.call.key for result in results}]
        shares = Counter(share for call in running for share in call.shares)
        return Room(max(0, self.stage.most_calls - len(running)), shares)

    def commit(self) -> None:
        (results, calls), self._decided = self._decided, ((), ())
        for result in results:
            self.running.pop(result.call.key, None)
        self.running |= {call.key: call for call in calls}
        for name, table in self.tables.items():
            for key, value in table.changes():
                if value is None:
                    self.changelog[name].pop(key, None)
                else:
                    self.changelog[name][key] = value
            table.commit()

    def turn(
        self,
        kafka_records: Sequence[Record] = (),
        results: Sequence[Result] = (),
        now: int = NOW,
        *,
        closing: bool = False,
    ) -> Decision:
        """Decides and commits a turn."""
        decision = self.decide(kafka_records, results, now, closing=closing)
        self.commit()
        return decision

    def committed(self, kafka_records: Sequence[Record] = (), now: int = NOW) -> Decision:
        """A turn, and the turns after the mirrors have reached the ends it asks for, as one decision; other calls are not made."""
        whole = self.turn(kafka_records, now=now)
        asked = [call for call in whole.calls if call.end_of is not None]
        while asked:
            part = self.turn(results=[passed(call) for call in asked], now=now)
            asked = [call for call in part.calls if call.end_of is not None]
            whole.outputs += part.outputs
            whole.refusals += part.refusals
            for name, times in part.counts.items():
                whole.count(name, times)
        return whole

    def due(self) -> int | None:
        return 0 if self.stage.wants_calls(self.state, self.room()) else self.stage.next_due(self.state)

    def rows(self, table: str) -> dict[bytes, Any]:
        return dict(self.tables[table].items())


def passed(call: Call) -> Result:
    """The engine's result of a call with `end_of`."""
    return Result(call, EndOf(call.end_of or "", {0: 0}, {0: 0}))


def refused(decision: Decision) -> list[str]:
    """The causes of a decision's refusals, in order."""
    return [refusal.cause for refusal in decision.refusals]
