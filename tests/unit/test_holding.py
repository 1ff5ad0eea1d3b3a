"""Messages to users without a known contact are held, in order, until it is certain; none is refused if its contact was produced before."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import recipients
from pipelines.engine.kafka_sizes import TURN_BYTES
from pipelines.engine.stage import Call, Output, Record
from pipelines.recipients import Reachable
from pipelines.route import CONTACTS, HELD_OUTPUT_BYTES, MAX_OUTPUT_BYTES, Route, State
from schemas import codec
from schemas.keys import contact_key
from schemas.outcomes import Rejected
from schemas.records import Address, Contact, Delivery, Direction, Message, SequencedMessage
from tables import held
from tests.support.builders import (
    HERE,
    NOW,
    PARTITIONS,
    Desk,
    conversation,
    conversation_at_home,
    decoded,
    examples,
    message,
    numbered,
    passed,
    record,
    refused,
    to_address,
    to_user,
)

THERE = conversation_at_home(0, number=1)
TOPIC = CONTACTS.topic


def contact(user_id: str, address: str = "15550001") -> Contact:
    return Contact(user_id=user_id, addresses=(Address(channel="whatsapp", address=address),), updated_at=NOW)


def _any(_: Delivery) -> Rejected | None:
    return None


def a_route(check: recipients.Check = _any) -> Route:
    return Route(partitions=PARTITIONS, dedupe_ms=86_400_000, channels={"whatsapp": Reachable("acc", check)})


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_route())


def know(desk: Desk[State], *contacts: Contact) -> None:
    """The mirror has read these contacts."""
    for each in contacts:
        desk.mirrored[TOPIC][contact_key(each.tenant_id, each.user_id).encode()] = each


def of(*messages: Message, start: int = 0) -> list[Record]:
    topics = {Direction.OUTBOUND: "messages", Direction.INBOUND: "conversation-inbound"}
    return numbered([record(topics[each.direction], each) for each in messages], start)


def to_ana(message_id: str = "m", **changes: object) -> Message:
    return message(message_id, recipients=(to_user("ana"),), **changes)


def accepted(outputs: Sequence[Output]) -> list[tuple[str, int]]:
    return [(each.message_id, each.seq) for each in decoded(outputs, "conversation-log", SequencedMessage)]


# --- one message --------------------------------------------------------------------------------------------------------


def test_a_contact_that_arrives_while_the_message_is_held_is_used(desk: Desk[State]) -> None:
    first = desk.turn(of(to_ana()))
    assert (first.outputs, first.refusals, first.counts) == ([], [], {"held": 1})
    (call,) = first.calls
    assert call.end_of == "contacts"
    assert list(desk.changelog["held"]) == [b"messages/0/0"]
    know(desk, contact("ana", "777"))
    second = desk.turn(results=[passed(call)], now=NOW + 40)
    (delivery,) = decoded(second.outputs, "deliveries.whatsapp", Delivery)
    assert (delivery.address, delivery.accepted_at) == ("777", NOW + 40)
    assert not desk.changelog["held"]
    assert not second.calls


def test_a_user_who_is_certainly_unknown_is_refused_with_the_original_record(desk: Desk[State]) -> None:
    headers = (("traceparent", b"00-1"), ("text", "olá"), ("none", None), ("traceparent", b""), ("empty", ""))
    sent = record("messages", to_ana(), key=b"\xff\n", offset=41, timestamp=NOW - 7, headers=headers)
    (call,) = desk.turn([sent]).calls
    desk.restart(a_route())
    (call,) = desk.turn().calls
    decision = desk.turn(results=[passed(call)])
    assert refused(decision) == ["unknown_user"]
    assert decision.refusals[0].record == sent
    assert not desk.changelog["held"]
    assert desk.due() is None


def test_an_address_that_a_known_contact_lacks_is_waited_for_too(desk: Desk[State]) -> None:
    know(desk, Contact(user_id="ana", addresses=(), updated_at=NOW))
    (call,) = desk.turn(of(to_ana())).calls
    know(desk, contact("ana"))
    assert accepted(desk.turn(results=[passed(call)]).outputs) == [("m", 1)]


def test_one_call_is_open_at_a_time_and_later_messages_need_another(desk: Desk[State]) -> None:
    (first,) = desk.turn(of(to_ana("a"))).calls
    assert not desk.turn(of(to_ana("b", conversation_id=THERE), start=1)).calls
    assert desk.due() is None, "nothing to do before the result arrives"
    decision = desk.turn(results=[passed(first)])
    assert [each.record.offset for each in decision.refusals] == [0], (
        "nothing is certain of what came after the question"
    )
    (second,) = decision.calls
    assert [each.record.offset for each in desk.turn(results=[passed(second)]).refusals] == [1]


def test_nothing_is_asked_while_the_partition_is_given_up(desk: Desk[State]) -> None:
    assert not desk.turn(of(to_ana()), closing=True).calls
    desk.reopen()
    assert desk.due() == 0
    assert desk.turn().calls


def test_an_answer_to_a_question_that_is_forgotten_is_good_for_its_rows_alone(desk: Desk[State]) -> None:
    """The state is derived again, as after a decision that raised, while a call is open: the stage asks again, and both calls end."""
    (first,) = desk.turn(of(to_ana("a"))).calls
    desk.reopen()
    (second,) = desk.turn().calls
    assert refused(desk.turn(results=[passed(first)])) == ["unknown_user"]
    (third,) = desk.turn(of(to_ana("b"), start=1)).calls
    assert not desk.turn(results=[passed(second)]).refusals, "it was asked before b came"
    assert refused(desk.turn(results=[passed(third)])) == ["unknown_user"]


def test_a_topic_that_was_created_again_replaces_no_row(desk: Desk[State]) -> None:
    desk.turn(of(to_ana("a")))
    desk.turn(of(to_ana("b")))
    assert len(desk.changelog["held"]) == 2


# --- order --------------------------------------------------------------------------------------------------------------


def test_a_conversation_waits_behind_what_is_held_of_it_and_others_do_not(desk: Desk[State]) -> None:
    inbound = message("in", direction=Direction.INBOUND, recipients=())
    batch = of(to_ana("a"), message("b"), inbound, message("c", conversation_id=THERE), to_ana("a"))
    first = desk.turn(batch)
    assert accepted(first.outputs) == [("c", 1)]
    know(desk, contact("ana"))
    desk.restart(a_route())
    (call,) = desk.turn(of(message("d"), start=9)).calls
    second = desk.turn(of(message("e"), start=10), results=[passed(call)])
    assert accepted(second.outputs) == [("a", 1), ("b", 2), ("in", 3), ("d", 4), ("e", 5)]
    assert second.counts["duplicate"] == 1


def test_what_stood_behind_and_is_not_certain_is_tried_and_waits_in_its_turn(desk: Desk[State]) -> None:
    (first,) = desk.turn(of(to_ana("a"))).calls
    desk.turn(of(message("b"), message("c", recipients=(to_user("bob"),)), message("d"), start=1))
    second = desk.turn(results=[passed(first)])
    assert (refused(second), accepted(second.outputs)) == (["unknown_user"], [("b", 1)])
    (call,) = second.calls
    know(desk, contact("bob"))
    assert accepted(desk.turn(results=[passed(call)]).outputs) == [("c", 2), ("d", 3)]


def test_members_are_those_of_the_moment_it_is_decided(desk: Desk[State]) -> None:
    know(desk, contact("bob", "2"))
    (call,) = desk.turn(
        numbered([record("conversations", conversation("ana")), *of(message("g", recipients=()))])
    ).calls
    decision = desk.turn([record("conversations", conversation("bob"), offset=1)], results=[passed(call)])
    assert [each.address for each in decoded(decision.outputs, "deliveries.whatsapp", Delivery)] == ["2"]


# --- bounds -------------------------------------------------------------------------------------------------------------


def test_a_partition_that_holds_its_fill_takes_no_messages(desk: Desk[State], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.holding.MOST_HELD", 3)
    (call,) = desk.turn(of(to_ana("a"), to_ana("b"))).calls
    assert desk.stage.takes("messages", desk.state)
    desk.turn(of(to_ana("c"), start=2))
    assert [desk.stage.takes(topic, desk.state) for topic in ("messages", "conversation-inbound", "conversations")] == [
        False,
        False,
        True,
    ]
    desk.restart(a_route())
    assert not desk.stage.takes("messages", desk.state)
    (call,) = desk.turn().calls
    desk.turn(results=[passed(call)])
    assert desk.stage.takes("messages", desk.state)


def test_what_is_held_is_bounded_in_bytes(desk: Desk[State]) -> None:
    large = [("x", b"y" * 900_000)]
    held_back = of(*(to_ana(f"m{i}") for i in range(held.MOST_HELD_BYTES // 900_000 + 1)))
    (call,) = desk.turn([each._replace(headers=large) for each in held_back]).calls
    assert not desk.stage.takes("messages", desk.state)
    desk.turn(results=[passed(call)])
    assert desk.stage.takes("messages", desk.state)


def test_outputs_of_held_messages_are_bounded_in_a_turn(desk: Desk[State], monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine could not find one record that causes all of them."""
    monkeypatch.setattr("pipelines.route.HELD_OUTPUT_BYTES", 100_000)
    people = (to_user("ana"), *(to_address(f"1555{i:07}") for i in range(99)))
    (call,) = desk.turn(of(*(message(f"m{i}", text="a" * 300, recipients=people) for i in range(9)))).calls
    know(desk, contact("ana"))
    decision = desk.turn(results=[passed(call)])
    sizes = []
    while decision.outputs:
        sizes.append(sum(len(output.value or b"") for output in decision.outputs))
        assert (desk.due() == 0) == bool(desk.rows("held"))
        decision = desk.turn()
    assert len(sizes) > 2
    assert max(sizes) < 200_000
    assert 2 * HELD_OUTPUT_BYTES + MAX_OUTPUT_BYTES < TURN_BYTES, "with a record of the turn"


def test_a_held_message_that_raises_is_refused_alone_and_leaves_no_trace() -> None:
    def check(delivery: Delivery) -> Rejected | None:
        if delivery.message_id == "bad":
            raise RuntimeError("a bug")
        return None

    desk = Desk(a_route(check))
    (call,) = desk.turn(of(to_ana("good"), to_ana("bad"), to_ana("fine"))).calls
    know(desk, contact("ana"))
    decision = desk.turn(results=[passed(call)])
    assert accepted(decision.outputs) == [("good", 1), ("fine", 2)]
    assert refused(decision) == ["decision_failed"]
    assert decision.refusals[0].detail.startswith("RuntimeError (unit/test_holding.py:"), (
        "the place, and not the sentence"
    )
    assert len(desk.changelog["seen"]) == 2


# --- any order ----------------------------------------------------------------------------------------------------------

_USERS = ("ana", "bob", "eva")
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("contact"), st.sampled_from(_USERS)),
        st.tuples(st.just("message"), st.sampled_from(_USERS), st.sampled_from([HERE, THERE])),
        st.tuples(st.just("message"), st.sampled_from(_USERS), st.sampled_from([HERE, THERE])),
        st.tuples(st.just("turn"), st.integers(0, 3)),
        st.tuples(st.just("mirror"), st.integers(1, 3)),
        st.tuples(st.just("answer"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["lost", "restart"])),
    ),
    max_size=40,
)


class World:
    """Kafka, a mirror with a lag, and a stage: contacts and messages in the order of their acknowledgements."""

    def __init__(self) -> None:
        self.desk = Desk(a_route())
        self.contacts: list[Contact] = []
        self.read = 0  # contacts that the mirror has read
        self.messages: list[Record] = []
        self.taken = 0
        self.asked: list[tuple[Call, int]] = []  # calls, and where the topic ended when they were asked for
        self.known_before: dict[str, set[str]] = {}  # message -> users whose contact was acknowledged before it
        self.outputs: list[Output] = []
        self.refused: list[str] = []

    def act(self, what: str, *how: object) -> None:
        getattr(self, what)(*how)

    def contact(self, user_id: str) -> None:
        self.contacts.append(contact(user_id))

    def message(self, user_id: str, conversation_id: str) -> None:
        sent = message(f"m{len(self.messages)}", recipients=(to_user(user_id),), conversation_id=conversation_id)
        self.known_before[sent.message_id] = {each.user_id for each in self.contacts}
        self.messages.append(record("messages", sent, offset=len(self.messages)))

    def mirror(self, number: int) -> None:
        know(self.desk, *self.contacts[self.read : self.read + number])
        self.read = min(len(self.contacts), self.read + number)

    def turn(self, size: int, *, answers: Sequence[Call] = ()) -> None:
        room = self.desk.stage.takes("messages", self.desk.state)
        batch = self.messages[self.taken : self.taken + size] if room else []
        decision = self.desk.turn(batch, [passed(call) for call in answers])
        self.taken += len(batch)
        self.outputs += decision.outputs
        self.refused += [codec.decode(refusal.record.value, Message).message_id for refusal in decision.refusals]
        self.asked += [(call, len(self.contacts)) for call in decision.calls]

    def answer(self, size: int) -> None:
        """The engine answers once the mirror has read up to there."""
        ready = [call for call, end in self.asked if end <= self.read]
        self.asked = [(call, end) for call, end in self.asked if end > self.read]
        self.turn(size, answers=ready)

    def lost(self) -> None:
        """A turn is decided and rolled back."""
        self.desk.decide(
            self.messages[self.taken : self.taken + 2], [passed(c) for c, end in self.asked if end <= self.read]
        )
        self.desk.reopen()

    def restart(self) -> None:
        """As on a new worker: its mirror is complete before it starts, and open calls are lost."""
        self.desk.restart(a_route())
        self.mirror(len(self.contacts))
        self.asked.clear()


@examples(400)
@given(steps=_STEPS)
def test_whoever_was_produced_before_the_message_is_known_and_order_holds(steps: list[tuple[str, object]]) -> None:
    world = World()
    for step in steps:
        world.act(*step)
    world.mirror(len(world.contacts))
    while world.taken < len(world.messages) or world.desk.rows("held"):
        world.answer(2)
    logged = decoded(world.outputs, "conversation-log", SequencedMessage)
    assert sorted([each.message_id for each in logged] + world.refused) == sorted(world.known_before), "each once"
    wanted = {m.message_id: m.recipients[0].user_id for m in (codec.decode(r.value, Message) for r in world.messages)}
    assert not [each for each in world.refused if wanted[each] in world.known_before[each]], "refused although known"
    for name in (HERE, THERE):
        row = [each for each in logged if each.conversation_id == name]
        assert [each.seq for each in row] == list(range(1, len(row) + 1))
        assert [int(each.message_id[1:]) for each in row] == sorted(int(each.message_id[1:]) for each in row)
