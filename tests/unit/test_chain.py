"""Stages chained in one turn: what is handed over, what goes through Kafka instead, and that order and records are kept when the path
changes, whatever crashes in between."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pipelines.engine.batch_queue import Batch
from pipelines.engine.chain import COPY, DETOUR, Chain, State
from pipelines.engine.poison import NotData, TooLarge
from pipelines.engine.stage import Call, Decision, Inputs, Output, Reading, Record, Result, Room, Source, Stage, View
from pipelines.engine.unread_sources import UnreadSources
from pipelines.match import Match
from pipelines.recipients import Reachable
from pipelines.route import Route
from pipelines.send import Send
from pipelines.send_state import SendLimits
from pipelines.track import Track
from schemas import codec
from schemas.keys import conversation_key
from schemas.outcomes import Accepted
from schemas.records import Binding, DeliveryState, Status
from tables.layout import Layout
from tests.support.builders import (
    HERE,
    NOW,
    OBSERVED,
    PARTITIONS,
    Desk,
    decoded,
    examples,
    message,
    numbered,
    raw,
    receipt,
    record,
    to_address,
)
from tests.support.counting_provider import Provider

DAY_MS = 86_400_000
INNER = frozenset({"conversation-log"})
OUTSIDE = frozenset({"conversation-log", "deliveries.internal"})
CHANNELS = ("telegram", "internal")
MARK = b"this start"
VIEWS: Mapping[str, View[Any]] = {"contacts": View({}), "suppressions": View({})}


def core(*, outstanding: int = 100, poison_limit: int = 20) -> Chain:
    """Route, match, send and track as a worker chains them."""
    limits = SendLimits(concurrency=4, outstanding=outstanding, attempts=3, hold_ms=1000, scheduled=0)
    route = Route(
        partitions=PARTITIONS,
        dedupe_ms=7 * DAY_MS,
        channels={name: Reachable(f"acc-{name}", lambda _: None) for name in CHANNELS},
    )
    return Chain(
        name="core",
        stages=(
            route,
            Match(partitions=PARTITIONS, binding_ms=7 * DAY_MS, orphan_ms=DAY_MS),
            Send(connectors={name: Provider(name, "resend") for name in CHANNELS}, limits=limits),
            Track(state_ms=7 * DAY_MS, observed=OBSERVED),
        ),
        inner=INNER,
        outside=OUTSIDE,
        poison_limit=poison_limit,
        linger_ms=0,
        turn_records=100,
    )


def asked(number: int, *, conversation: str = HERE, channel: str = "telegram") -> Record:
    wanted = message(f"m{number}", conversation_id=conversation, recipients=(to_address("1", channel=channel),))
    return record("messages", wanted, offset=number)


def turn(desk: Desk[State], records: Sequence[Record], results: Sequence[Result] = (), **reading: Any) -> Decision:
    inputs = Inputs(records, results, reading=Reading(**({"mark": MARK} | reading)), views=VIEWS, room=Room(100))
    decision = desk.stage.decide(inputs, desk.state, NOW)
    desk.commit()
    return decision


def topics(outputs: Sequence[Output]) -> list[str]:
    return [output.topic for output in outputs]


def answer(decision: Decision) -> list[Result]:
    return [Result(call, Accepted((f"p-{call.key}",))) for call in decision.calls]


# --- which path -----------------------------------------------------------------------------------------------------------------


def test_one_turn_goes_from_the_message_to_its_call() -> None:
    """Only topics with other readers are produced: nothing of deliveries.telegram or status-updates goes to Kafka."""
    desk = Desk(core())
    first = turn(desk, [asked(1)])
    assert topics(first.outputs) == ["conversation-log", "delivery-states"]
    assert len(first.calls) == 1
    assert first.handed == {"conversation-log": 1, "deliveries.telegram": 1}
    second = turn(desk, [], answer(first))
    assert topics(second.outputs) == ["bindings", "bindings", "delivery-states"]
    (state,) = decoded(second.outputs, "delivery-states", DeliveryState)
    assert (state.status, state.version) == (Status.SENT, 2)
    assert second.handed == {"status-updates": 1}


def test_parts_are_counted_by_stage() -> None:
    decision = turn(Desk(core()), [asked(1)])
    assert [(part.stage, part.records, part.outputs) for part in decision.parts] == [
        ("route", 1, 2),
        ("send", 1, 0),
        ("track", 1, 1),
    ]


def test_what_others_read_is_produced_too_and_not_taken_again() -> None:
    """A copy that comes back from Kafka is skipped; the same record from another producer, for example a redrive, is not."""
    desk = Desk(core())
    decision = turn(desk, [asked(1, channel="internal")])
    (copy,) = [output for output in decision.outputs if output.topic == "deliveries.internal"]
    assert dict(copy.headers) == {COPY: b"1"}
    turn(desk, [], answer(decision))
    back = raw(copy.topic, copy.value, key=copy.key, headers=copy.headers)
    again = turn(desk, [back])
    assert (again.calls, again.copies, again.outputs) == ([], 1, [])
    assert len(turn(desk, [back._replace(headers=())]).calls) == 1


def test_what_is_behind_goes_through_kafka_and_back() -> None:
    desk = Desk(core())
    decision = turn(desk, [asked(1)], behind=frozenset({"deliveries.telegram"}))
    (detour,) = [output for output in decision.outputs if output.topic == "deliveries.telegram"]
    assert dict(detour.headers) == {DETOUR: MARK}
    assert (decision.calls, decision.detours) == ([], {"deliveries.telegram": 1})
    back = turn(desk, [raw(detour.topic, detour.value, key=detour.key, headers=detour.headers)])
    assert back.returned == {"deliveries.telegram": 1}
    assert len(back.calls) == 1


def test_a_full_stage_is_handed_nothing() -> None:
    desk = Desk(core(outstanding=2))
    turn(desk, [asked(1), asked(2)])
    assert not desk.stage.takes("deliveries.telegram", desk.state)
    decision = turn(desk, [asked(3)])
    assert decision.detours == {"deliveries.telegram": 1}
    assert "conversation-log" in decision.handed


def test_what_is_for_another_partition_goes_through_kafka() -> None:
    """A receipt without our tracker whose delivery lives elsewhere; its topic is not behind because of it."""
    bound = Binding(
        channel="telegram",
        account="acc-1",
        provider_message_id="p1",
        delivery_id="d1",
        conversation_id="c",
        home_partition=2,
        bound_at=NOW,
    )
    observed = receipt("p1", channel="telegram")
    decision = turn(Desk(core()), [record("bindings", bound), record("receipts", observed)])
    assert [(output.topic, output.partition, output.headers) for output in decision.outputs] == [
        ("status-updates", 2, ())
    ]
    assert not decision.detours


def test_what_is_handed_over_is_what_kafka_would_have_brought() -> None:
    """Compares the typed records of the outputs with their bytes."""
    desk = Desk(core())
    seen: list[Output] = []
    take_part = Chain._take_part

    def spied(self: Chain, number: int, part: Decision, *rest: Any) -> None:
        seen.extend(part.outputs)
        take_part(self, number, part, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chain, "_take_part", spied)
        first = turn(desk, [asked(1), asked(2, channel="internal")])
        turn(desk, [], answer(first))
    typed = [output for output in seen if output.content is not None]
    assert {output.topic for output in typed} == {
        "conversation-log",
        "deliveries.telegram",
        "deliveries.internal",
        "status-updates",
    }
    for output in typed:
        assert codec.decode(output.value, type(output.content)) == output.content


# --- poison ---------------------------------------------------------------------------------------------------------------------


class _Plain:
    """Rows are plain bytes."""

    name = "seen"
    version = 1
    packed = False
    keyed_by_record = True
    time_of = None
    bucketed = False

    def encode(self, row: bytes) -> bytes:
        return row

    def decode(self, value: bytes) -> bytes:
        return value

    def as_json(self, row: bytes) -> Any:
        return row


class First(Stage[Any]):
    """Makes an output of every record."""

    name = "first"
    sources = (Source("in"),)

    def open(self, partition: int, tables: Any) -> int:  # noqa: ARG002  # this stage has no tables
        return partition

    def decide(self, inputs: Inputs, state: int, now: int) -> Decision:  # noqa: ARG002  # nothing is timed
        return Decision(
            [Output("between", r.key or b"", r.value, state, origin=f"{r.topic} {r.offset}") for r in inputs.records]
        )


class Second(Stage[Any]):
    """Makes an output of every record once, and cannot decide on some."""

    name = "second"
    sources = (Source("between"),)
    tables: ClassVar[tuple[Layout[Any], ...]] = (_Plain(),)

    def open(self, partition: int, tables: Any) -> Any:  # noqa: ARG002  # a partition's number means nothing here
        return tables["seen"]

    def decide(self, inputs: Inputs, state: Any, now: int) -> Decision:  # noqa: ARG002  # nothing is timed
        decision = Decision()
        for each in inputs.records:
            if each.value == b"large":
                raise TooLarge("far too much")
            if each.value == b"poison" or (each.value == b"nothing works" and len(state)):
                raise ValueError("boom")
            state.put(each.key, each.value)
            decision.outputs.append(Output("out", each.key or b"", each.value, 0))
        return decision


def pair(poison_limit: int = 20) -> Desk[State]:
    chain = Chain(
        name="pair",
        stages=(First(), Second()),
        inner=frozenset(),
        outside=frozenset(),
        poison_limit=poison_limit,
        linger_ms=0,
        turn_records=100,
    )
    return Desk(chain)


def given_values(*values: bytes) -> list[Record]:
    return numbered([raw("in", value, key=b"k%d" % number) for number, value in enumerate(values)])


@pytest.mark.parametrize("places", [(0,), (6,), (2, 3), (0, 4, 6), tuple(range(7))])
def test_a_handed_record_that_cannot_be_decided_on_is_refused_alone(places: Sequence[int]) -> None:
    """The other records of the turn are decided on once, on the state with which the turn began; the refusal names the record's origin."""
    values = [b"poison" if number in places else b"v%d" % number for number in range(7)]
    desk = pair()
    decision = turn(desk, given_values(*values))
    good = [value for value in values if value != b"poison"]
    assert [output.value for output in decision.outputs] == good
    assert sorted(row for _, row in desk.tables["seen"].items()) == sorted(good)
    assert [refusal.record.key for refusal in decision.refusals] == [b"k%d" % place for place in places]
    for refusal, place in zip(decision.refusals, places, strict=True):
        assert (refusal.stage, refusal.cause, refusal.record.topic) == ("second", "decision_failed", "between")
        assert refusal.record.value == b"poison"
        assert "ValueError (unit/test_chain.py" in refusal.detail.replace("tests/", "")
        assert refusal.detail.endswith(f"handed over by first from in {place}")


def test_a_stage_that_can_decide_on_nothing_stops_the_worker() -> None:
    with pytest.raises(NotData, match="a bug in the code of stage second, not data: 4 records in a row"):
        turn(pair(poison_limit=3), given_values(*[b"poison"] * 10))


def test_too_much_is_for_the_turn_as_a_whole_to_find_out() -> None:
    with pytest.raises(TooLarge):
        turn(pair(), given_values(b"one", b"large"))


def test_a_refusal_of_a_stage_says_which() -> None:
    decision = turn(Desk(core()), [raw("messages", b"not Avro")])
    assert [(refusal.stage, refusal.cause) for refusal in decision.refusals] == [("route", "not_avro")]


def test_a_sink_cannot_be_chained() -> None:
    class Sink(First):
        def decide(self, inputs: Inputs, state: int, now: int) -> Decision:  # noqa: ARG002  # it writes nothing
            return Decision(writes=[])

    chain = Chain(
        name="c", stages=(Sink(),), inner=frozenset(), outside=frozenset(), poison_limit=1, linger_ms=0, turn_records=1
    )
    with pytest.raises(NotData, match="stage first is a sink"):
        chain.decide(Inputs(given_values(b"v"), []), chain.open(0, {}), NOW)


# --- what is unread ---------------------------------------------------------------------------------------------------------------


def batch(topic: str) -> Batch:
    return Batch([raw(topic, b"")], lambda: None)


def test_a_topic_is_behind_until_what_was_there_at_the_start_is_read() -> None:
    position = {("a", 0): 3}
    unread = UnreadSources()
    unread.start(
        {("a", 0): 5, ("b", 0): 0}, lambda source, end, batches: position.get(source, 0) >= end and batches < 2, b"m"
    )
    assert unread.look([], set()) == Reading(frozenset({"a"}), b"m")
    position["a", 0] = 5
    assert unread.look([], {"a"}).behind == {"a"}, "some of it waits for a later turn"
    assert unread.look([batch("a"), batch("a")], set()).behind == {"a"}
    assert unread.look([batch("a")], set()).behind == frozenset()
    position["a", 0] = 0
    assert unread.look([], set()).behind == frozenset(), "once read, it is never behind again"


def test_a_topic_is_behind_until_its_detours_have_come_back() -> None:
    unread = UnreadSources()
    unread.start({}, lambda *_: True, b"m")
    gone, back = Decision(), Decision()
    gone.detours["a"] += 2
    back.returned["a"] += 1
    unread.committed(gone)
    unread.committed(back)
    assert unread.look([], set()).behind == {"a"}
    unread.committed(back)
    assert unread.look([], set()).behind == frozenset()


# --- every order ----------------------------------------------------------------------------------------------------------------


class ChainModel(RuleBasedStateMachine):
    """Core in one partition, with small bounds: messages, turns of any size that are committed or lost, answers, restarts. Whatever path
    each delivery took, every lane is served in order, every message once, and track has every delivery at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.kafka: dict[str, list[Record]] = defaultdict(list)  # topic -> committed records of partition 0
        self.positions: dict[str, int] = defaultdict(int)
        self.fetched: dict[str, int] = defaultdict(int)
        self.calls: list[Call] = []
        self.made: dict[str, list[int]] = defaultdict(list)  # lane -> sequences in the order of first calls
        self.called: set[str] = set()
        self.states: dict[str, list[DeliveryState]] = defaultdict(list)
        self.produced = 0
        self.starts = 0
        self.now = NOW
        self.ways: set[str] = set()
        self.stage = core(outstanding=3)
        self.desk = Desk(self.stage)
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.fetched = defaultdict(int, self.positions)
        self.calls.clear()
        self.stage = core(outstanding=3)
        self.desk.restart(self.stage)
        self.unread = UnreadSources()
        ends = {(topic, 0): len(self.kafka[topic]) for topic in (source.topic for source in self.stage.sources)}
        self.unread.start(ends, self._is_read_to, b"start %d" % self.starts)

    def _is_read_to(self, source: tuple[str, int], end: int, batches: int) -> bool:  # noqa: ARG002  # whole batches only
        return self.fetched[source[0]] >= end

    @rule(lane=st.integers(0, 2), channel=st.sampled_from(CHANNELS), number=st.integers(1, 4))
    def produce(self, lane: int, channel: str, number: int) -> None:
        for _ in range(number):
            recipients = (to_address(str(lane), channel=channel),)
            wanted = record("messages", message(f"m{self.produced}", recipients=recipients))
            self.kafka["messages"].append(wanted._replace(offset=len(self.kafka["messages"])))
            self.produced += 1

    @rule(
        at_most=st.integers(0, 3),
        messages=st.integers(0, 3),
        answers=st.integers(0, 4),
        fate=st.sampled_from(["kept", "kept", "kept", "lost"]),
    )
    def take_turn(self, at_most: int, messages: int, answers: int, fate: str) -> None:
        batches = []
        for source in self.stage.sources:
            topic = source.topic
            if not self.stage.takes(topic, self.desk.state):
                continue
            number = messages if topic == "messages" else at_most
            records = self.kafka[topic][self.fetched[topic] : self.fetched[topic] + number]
            if records:
                self.fetched[topic] += len(records)
                batches.append(Batch(records, lambda: None))
        taken, self.calls = self.calls[:answers], self.calls[answers:]
        results = [Result(call, Accepted((f"p-{call.key}",))) for call in taken]
        records = [each for batch in batches for each in batch.records]
        reading = self.unread.look(batches, set())
        inputs = Inputs(records, results, reading=reading, views=VIEWS, room=Room(4 - len(self.calls)))
        decision = self.stage.decide(inputs, self.desk.state, self.now)
        if fate == "lost":
            self.start()
            return
        self.desk.commit()
        self.unread.committed(decision)
        self.positions = defaultdict(int, self.fetched)
        self._note(decision)

    def _note(self, decision: Decision) -> None:
        assert not decision.refusals
        self.ways |= {f"handed {t}" for t in decision.handed} | {f"detour {t}" for t in decision.detours}
        for output in decision.outputs:
            if output.topic == "delivery-states":
                state = codec.decode(output.value, DeliveryState)
                self.states[state.delivery_id].append(state)
            if output.topic in {source.topic for source in self.stage.sources} and output.topic != "bindings":
                offset = len(self.kafka[output.topic])
                self.kafka[output.topic].append(
                    Record(output.topic, 0, offset, NOW, output.key, output.value, output.headers)
                )
        for call in decision.calls:
            delivery = call.request[1].request.delivery
            if call.key not in self.called:
                self.called.add(call.key)
                self.made[f"{delivery.channel} {delivery.address}"].append(delivery.seq)
            self.calls.append(call)
        for lane, sequences in self.made.items():
            assert sequences == sorted(sequences), f"out of order in {lane}"

    @rule()
    def die(self) -> None:
        """Between two turns: the outcome of calls under way is not known; their policy is to send again."""
        self.start()

    def teardown(self) -> None:
        for _ in range(2 * self.produced + 30):
            self.now += 70_000  # past every back-off
            self.take_turn(10, 10, 4, "kept")
        assert len(self.called) == self.produced
        assert len(self.states) == self.produced
        for states in self.states.values():
            assert [state.version for state in states] == list(range(1, len(states) + 1))
            assert states[-1].status is Status.SENT
        conversation = self.desk.tables["sequences"].get(conversation_key("default", HERE).encode())
        assert (conversation.seq if conversation else 0) == self.produced


TestEveryOrder = ChainModel.TestCase
TestEveryOrder.settings = examples(40, steps=20)
