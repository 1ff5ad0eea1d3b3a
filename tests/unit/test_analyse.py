"""Stage analyse: every record is inserted once, in batches that are repeated identically after any crash; no offset is committed early."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.analyse import LOG, STATES, Analyse, Chunk, State
from pipelines.engine.stage import Decision, Record
from schemas.records import SIGNALS, DeliveryRef, Direction
from sinks.clickhouse import ClickHouseFacts
from sinks.fact_tables import ACCEPTED, EVENTS, INBOUND, FactTable
from sinks.sink_errors import Unavailable
from tables.plans import PLANS, PlannedBatch
from tests.support.builders import NOW, Desk, delivery_state, examples, raw, record, refused, sequenced

PARTITION = 2
NOWHERE = "http://127.0.0.1:1"


def an_analyse(sink: ClickHouseFacts | None = None) -> Analyse:
    return Analyse(sink=sink or ClickHouseFacts(NOWHERE), linger_ms=0)


def state_record(offset: int) -> Record:
    return record(STATES, delivery_state(f"e{offset}"), partition=PARTITION, offset=offset)


def message_record(offset: int) -> Record:
    """A message with one delivery, whose id names the record, and every third a message of a person."""
    if offset % 3 == 2:
        labels = {"channel": "whatsapp", "account": "shop", "other": "MARK"}
        message = sequenced(message_id=f"m{offset}", direction=Direction.INBOUND, metadata=labels)
    else:
        to = DeliveryRef(delivery_id=f"d{offset}", channel="telegram", account="bot", recipient="ana", address="MARK")
        message = sequenced(to, message_id=f"m{offset}")
    return record(LOG, message, partition=PARTITION, offset=offset)


def junk_record(offset: int) -> Record:
    return raw(STATES, b"junk", partition=PARTITION, offset=offset)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(an_analyse(), PARTITION)


def named(row: Any) -> str:
    """The name of the record that a row comes from."""
    return str(getattr(row, "event_id", None) or row.message_id)


def inserts(decision: Decision) -> list[tuple[str, list[str]]]:
    chunks: list[Chunk] = decision.writes
    return [(chunk.token, list(map(named, chunk.rows))) for chunk in chunks]


def offset_of(decision: Decision, topic: str = STATES) -> int | None:
    return decision.offsets.get((topic, PARTITION))


def planned(desk: Desk[State]) -> list[tuple[tuple[int, int], ...]]:
    return [row.ranges for row in desk.rows("plans").values()]


# --- step by step -------------------------------------------------------------------------------------------------------


def test_a_batch_is_planned_inserted_and_only_then_committed(desk: Desk[State]) -> None:
    assert desk.due() is None
    first = desk.turn([state_record(5), state_record(6), state_record(8)])
    assert inserts(first) == [("delivery-states-2-5-8", ["e5", "e6", "e8"])]
    assert offset_of(first) == 5, "the group's offset is before rows that are not inserted yet"
    assert planned(desk) == [((5, 8),)]
    assert desk.due() == 0
    last = desk.turn()
    assert (inserts(last), offset_of(last)) == ([], 9)
    assert not desk.changelog["plans"]
    assert desk.due() is None


def test_the_next_batch_carries_the_offset_of_the_one_before(desk: Desk[State]) -> None:
    desk.turn([state_record(0)])
    decision = desk.turn([state_record(1), state_record(2)])
    assert inserts(decision) == [("delivery-states-2-1-2", ["e1", "e2"])]
    assert offset_of(decision) == 1
    assert planned(desk) == [((1, 2),)]


def test_a_planned_batch_is_repeated_identically_from_turns_of_any_size(desk: Desk[State]) -> None:
    first = inserts(desk.turn([state_record(i) for i in range(4)]))
    desk.restart(an_analyse())
    again = desk.turn([state_record(0)])
    assert (inserts(again), offset_of(again)) == ([], 0)
    again = desk.turn([state_record(1), state_record(2)])
    assert (inserts(again), offset_of(again)) == ([], 0)
    again = desk.turn([state_record(3), state_record(4)])
    assert inserts(again) == [*first, ("delivery-states-2-4-4", ["e4"])]
    assert [chunk.again for chunk in again.writes] == [True, False], "what was planned before may be there already"
    assert offset_of(again) == 0
    assert offset_of(desk.turn()) == 5


def test_signals_are_no_facts(desk: Desk[State]) -> None:
    signals = [
        record(STATES, delivery_state(f"e{n}", kind=kind), offset=n, partition=PARTITION)
        for n, kind in enumerate(SIGNALS)
    ]
    decision = desk.turn([*signals, state_record(5)])
    assert inserts(decision) == [("delivery-states-2-0-5", ["e5"])]


def test_what_is_refused_is_refused_once_and_the_rest_is_inserted(desk: Desk[State]) -> None:
    batch = [state_record(0), junk_record(1), state_record(2)]
    decision = desk.turn(batch)
    assert refused(decision) == ["not_avro"]
    assert inserts(decision) == [("delivery-states-2-0-2", ["e0", "e2"])]
    desk.restart(an_analyse())
    again = desk.turn([*batch, junk_record(3)])
    assert [refusal.record.offset for refusal in again.refusals] == [3]
    assert inserts(again)[0] == inserts(decision)[0]


# --- two sources --------------------------------------------------------------------------------------------------------


def test_each_source_has_its_plan_and_its_offset(desk: Desk[State]) -> None:
    first = desk.turn([message_record(1), state_record(5), message_record(2), state_record(6)])
    assert inserts(first) == [
        ("conversation-log-2-1-2-accepted_deliveries", ["m1"]),
        ("conversation-log-2-1-2-inbound_events", ["m2"]),
        ("delivery-states-2-5-6", ["e5", "e6"]),
    ]
    assert [chunk.table for chunk in first.writes] == [ACCEPTED, INBOUND, EVENTS]
    assert (offset_of(first, LOG), offset_of(first)) == (1, 5)
    second = desk.turn([state_record(7)])
    assert (offset_of(second, LOG), offset_of(second)) == (3, 7)
    assert set(desk.changelog["plans"]) == {STATES.encode()}, "the plan of the source without records is done"
    assert desk.due() == 0
    assert offset_of(desk.turn()) == 8
    assert desk.due() is None


def test_rows_of_messages_have_no_address_and_no_label_but_the_campaign(desk: Desk[State]) -> None:
    to = DeliveryRef(
        delivery_id="d", channel="telegram", account="b", recipient="MARK", address="MARK", fallback_of="a"
    )
    labels = {"campaign": "x" * 101, "other": "MARK", "MARK": "spring"}
    outbound = sequenced(to, message_id="m", text="MARK", sender="MARK", metadata=labels, not_before=NOW)
    forged = {"channel": "MARK", "account": "shop", "provider_message_id": "MARK", "at": "MARK"}
    inbound = sequenced(message_id="i", direction=Direction.INBOUND, sender="MARK", text="MARK", metadata=forged)
    decision = desk.turn(
        [record(LOG, each, partition=PARTITION, offset=n) for n, each in enumerate((outbound, inbound))]
    )
    (accepted,), (heard,) = (chunk.rows for chunk in decision.writes)
    assert "MARK" not in repr((accepted, heard))
    assert (accepted.campaign[:101], len(accepted.campaign)) == ("x" * 100 + "~", 117)
    assert (accepted.fallback_of, accepted.not_before, accepted.account) == ("a", NOW, "b")
    assert (heard.channel, heard.account, heard.received_at) == ("", "shop", inbound.requested_at)


def test_signals_are_not_accepted_deliveries(desk: Desk[State]) -> None:
    to = DeliveryRef(delivery_id="d", channel="whatsapp", account="a", recipient="r", address="r")
    signals = [record(LOG, sequenced(to, kind=kind), offset=n, partition=PARTITION) for n, kind in enumerate(SIGNALS)]
    decision = desk.turn(signals)
    assert (inserts(decision), offset_of(decision, LOG)) == ([], 0)
    assert offset_of(desk.turn(), LOG) == len(signals)


def test_a_plan_of_the_release_before_is_repeated_as_it_was(desk: Desk[State]) -> None:
    """Its JSON has no times: the sink then looks for rows without a batch."""
    desk.changelog["plans"][STATES.encode()] = b'{"ranges":[[0,1],[2,3]]}'
    desk.restart(an_analyse())
    decision = desk.turn([state_record(n) for n in range(5)], now=NOW)
    assert inserts(decision) == [
        ("delivery-states-2-0-1", ["e0", "e1"]),
        ("delivery-states-2-2-3", ["e2", "e3"]),
        ("delivery-states-2-4-4", ["e4"]),
    ]
    assert [(chunk.planned_at, chunk.again) for chunk in decision.writes] == [(0, True), (0, True), (NOW, False)]
    assert PLANS.decode(desk.changelog["plans"][STATES.encode()]) == PlannedBatch(((0, 1), (2, 3), (4, 4)), (0, 0, NOW))


def test_an_insert_has_rows_of_few_days(desk: Desk[State]) -> None:
    """Each day is a part in each relation: a wrong clock must not make ten thousand of them in one insert."""
    day = 86_400_000
    batch = [
        record(STATES, delivery_state(f"e{n}", accepted_at=NOW + n * day), partition=PARTITION, offset=n)
        for n in range(1000)
    ]
    decision = desk.turn(batch)
    assert planned(desk) == [((0, 399), (400, 799), (800, 999))]
    desk.restart(an_analyse())
    assert inserts(desk.turn(batch)) == inserts(decision)


def test_an_insert_has_few_rows_though_one_message_has_many(desk: Desk[State]) -> None:
    def message(n: int) -> Record:
        to = [
            DeliveryRef(delivery_id=f"d{n}-{i}", channel="internal", account="", recipient="r", address="r")
            for i in range(5000)
        ]
        return record(LOG, sequenced(*to, message_id=f"m{n}"), partition=PARTITION, offset=n)

    desk.turn([message(n) for n in range(5)])
    assert planned(desk) == [((0, 3), (4, 4))]


# --- the insert ---------------------------------------------------------------------------------------------------------


class Ledger(ClickHouseFacts):
    """A sink in memory in place of ClickHouse; it is unavailable for `outages` inserts."""

    def __init__(self, outages: int = 0) -> None:
        super().__init__(NOWHERE)
        self.outages = outages
        self.inserted: list[tuple[str, list[str]]] = []
        self.repeated: list[str] = []

    async def insert(self, token: str, rows: Sequence[Any], table: FactTable = EVENTS) -> None:  # noqa: ARG002  # any relation
        if self.outages:
            self.outages -= 1
            raise Unavailable("unavailable")
        self.inserted.append((token, list(map(named, rows))))

    async def insert_again(self, token: str, rows: Sequence[Any], planned_at: int, table: FactTable = EVENTS) -> None:
        assert planned_at
        self.repeated.append(token)
        await self.insert(token, rows, table)


def chunk_of(token: str, event: str, partition: int = 0, **changes: Any) -> Chunk:
    return Chunk(partition, token, [delivery_state(event)], planned_at=int(time.time() * 1000))._replace(**changes)


async def test_write_inserts_every_chunk_and_waits_for_clickhouse() -> None:
    ledger = Ledger(outages=1)
    await an_analyse(ledger).write(Decision(writes=[chunk_of("a", "e1"), chunk_of("c", "e2")]))
    assert ledger.inserted == [("a", ["e1"]), ("c", ["e2"])]
    assert ledger.repeated == ["a"], "an insert without an answer may have taken effect"


async def test_what_may_be_there_is_looked_for_before_it_is_inserted() -> None:
    """A repeated plan, and a plan that waited so long that another worker may have taken the partition over."""
    ledger = Ledger()
    late = chunk_of("late", "e2")
    chunks = [
        chunk_of("repeated", "e1", again=True),
        late._replace(planned_at=late.planned_at - 61_000),
        chunk_of("new", "e3"),
    ]
    await an_analyse(ledger).write(Decision(writes=chunks))
    assert ledger.repeated == ["repeated", "late"]


async def test_any_other_error_than_unavailable_is_raised() -> None:
    class Broken(Ledger):
        async def insert(self, token: str, rows: Sequence[Any], table: FactTable = EVENTS) -> None:  # noqa: ARG002  # any relation
            raise ValueError(f"{token} of {len(rows)}")

    with pytest.raises(ValueError, match="a of 1"):
        await an_analyse(Broken()).write(Decision(writes=[chunk_of("a", "e1")]))


async def test_partitions_insert_one_after_the_other_at_a_distance() -> None:
    """Each partition collects records until its slot and plans only then; an incomplete replayed range uses no slot."""
    stage = Analyse(sink=Ledger(), linger_ms=60_000)
    assert stage.turn_delay(0) == 0, "after a pause no partition waits"
    assert [round(stage.turn_delay(number) / 60) for number in (1, 2, 1)] == [1, 2, 1]
    await stage.write(Decision(writes=[]))
    assert stage.turn_delay(0) == 0
    await stage.write(Decision(writes=[chunk_of("a", "e1")]))
    assert round(stage.turn_delay(0) / 60) == 3


async def test_while_clickhouse_is_unavailable_one_insert_is_retried_and_the_others_wait() -> None:
    class Counting(Ledger):
        tried: ClassVar[list[str]] = []

        async def insert(self, token: str, rows: Sequence[Any], table: FactTable = EVENTS) -> None:
            self.tried.append(token)
            await super().insert(token, rows, table)

    ledger = Counting(outages=2)
    stage = an_analyse(ledger)
    writes = [chunk_of(f"t{number}", f"e{number}", number) for number in range(3)]
    await asyncio.gather(*(stage.write(Decision(writes=[chunk])) for chunk in writes))
    assert ledger.tried == ["t0", "t0", "t0", "t1", "t2"]
    assert ledger.inserted == [(f"t{n}", [f"e{n}"]) for n in range(3)]


# --- any crash ----------------------------------------------------------------------------------------------------------


class World:
    """One partition of both topics in Kafka, and ClickHouse: what the group committed, and what was inserted with which token. `log` has
    the records as the engine may read them: in offset order for each topic."""

    def __init__(self, log: list[Record]) -> None:
        self.log = log
        self.committed = {LOG: 0, STATES: 0}
        self.position = dict(self.committed)
        self.at_start = dict(self.committed)
        self.inserted: dict[str, list[str]] = {}
        self.letters: Counter[tuple[str, int]] = Counter()
        self.desk = Desk(an_analyse(), PARTITION)

    def restart(self) -> None:
        self.desk.restart(an_analyse())
        self.position, self.at_start = dict(self.committed), dict(self.committed)

    def waiting(self) -> list[Record]:
        return [each for each in self.log if each.offset >= self.position[each.topic]]

    def turn(self, size: int, fate: str, inserted: int) -> None:
        """A turn that is lost, or committed and stopped after some of its inserts, or complete."""
        batch = self.waiting()[:size]
        decision = self.desk.decide(batch)
        if fate == "lost":
            self.restart()
            return
        self.desk.commit()
        for (topic, _), offset in decision.offsets.items():
            self.committed[topic] = max(self.at_start[topic], offset)
        for refusal in decision.refusals:
            if refusal.record.offset >= self.at_start[refusal.record.topic]:
                self.letters[refusal.record.topic, refusal.record.offset] += 1
        for each in batch:
            self.position[each.topic] = each.offset + 1
        self.check_committed()
        chunks = inserts(decision)
        for token, rows in chunks if fate == "whole" else chunks[:inserted]:
            assert self.inserted.setdefault(token, rows) == rows, (
                "the same token for other rows: ClickHouse would drop them"
            )
        if fate == "cut off":
            self.restart()

    def check_committed(self) -> None:
        done = {row for rows in self.inserted.values() for row in rows}
        behind = {name_of(each) for each in self.log if each.offset < self.committed[each.topic]} - {None}
        assert behind <= done, "an offset was committed before its rows were inserted"

    def finish(self) -> None:
        for _ in range(1000):
            if self.waiting():
                self.turn(7, "whole", 0)
            elif self.desk.due() == 0:
                self.turn(0, "whole", 0)
            else:
                return
        raise AssertionError("it never ends")


def name_of(each: Record) -> str | None:
    """What `named` says of the record's row; None for junk."""
    if each.value == b"junk":
        return None
    return f"{'m' if each.topic == LOG else 'e'}{each.offset}"


@st.composite
def _logs(draw: st.DrawFn) -> list[Record]:
    """Messages, states and unreadable records, with gaps in the offsets where transactions ended."""
    offsets, log = {LOG: 0, STATES: 0}, []
    kinds = st.sampled_from([message_record, state_record, state_record, junk_record])
    for make, hole in draw(st.lists(st.tuples(kinds, st.integers(0, 2)), max_size=25)):
        topic = LOG if make is message_record else STATES
        log.append(make(offsets[topic]))
        offsets[topic] += 1 + hole
    return log


_TURNS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["whole", "whole", "lost", "cut off"]), st.integers(0, 3)), max_size=15
)


@examples(300)
@given(log=_logs(), turns=_TURNS)
def test_any_crash_and_any_turns_insert_every_row_exactly_once(
    log: list[Record], turns: list[tuple[int, str, int]]
) -> None:
    world = World(log)
    for size, fate, inserted in turns:
        if world.waiting()[:size] or world.desk.due() == 0:
            world.turn(size, fate, inserted)
    world.finish()
    rows = [row for rows in world.inserted.values() for row in rows]
    assert sorted(rows) == sorted(filter(None, map(name_of, log)))
    assert world.letters == Counter((each.topic, each.offset) for each in log if each.value == b"junk")
    ends = {topic: max((each.offset + 1 for each in log if each.topic == topic), default=0) for topic in (LOG, STATES)}
    assert world.committed == ends
    assert not world.desk.changelog["plans"]
