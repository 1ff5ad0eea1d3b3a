"""Every stage with records whose fields are below, at and above every limit: it refuses exactly those above, and its outputs for the others
fit. Then inputs that once ended a stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.registry import CHANNELS
from pipelines.analyse import Analyse
from pipelines.archive import Archive, Writes
from pipelines.engine.kafka_sizes import TURN_BYTES
from pipelines.engine.stage import Call, Decision, Record, Result, Stage
from pipelines.match import Match
from pipelines.recipients import Reachable
from pipelines.route import MAX_OUTPUT_BYTES, MAX_RECORD_BYTES, Route
from pipelines.send import DUE_PER_TURN, Send
from pipelines.send_state import SendLimits
from pipelines.track import Track
from schemas import codec, limit_check
from schemas.content import Content, Media, Template
from schemas.keys import key_of
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Scope, Unknown
from schemas.records import (
    Binding,
    Conversation,
    Cursor,
    CursorReport,
    Delivery,
    DeliveryState,
    InboundMessage,
    Message,
    Preference,
    Receipt,
    Recipient,
    SequencedMessage,
    StatusUpdate,
    Suppression,
    Window,
)
from sinks.clickhouse import ClickHouseFacts
from sinks.postgres import PostgresArchive as Sink
from tables.bindings import MOST_WAITING
from tables.timelines import MOST_EARLY
from tests.support.builders import (
    NOW,
    OBSERVED,
    TRACKER_KEYS,
    Desk,
    binding,
    conversation,
    decoded,
    delivery,
    examples,
    message,
    numbered,
    raw,
    receipt,
    record,
    ref,
    refused,
    sequenced,
    signed_tracker,
    to_address,
    update,
)
from tests.support.counting_provider import Provider
from tests.support.straddling import SAMPLES, cases

MOST = 1_000_000
HOUR = 3_600_000
CHANNEL_NAMES = ("whatsapp", "telegram", "instagram", "internal")


def a_route() -> Route:
    channels = {name: Reachable("acc", CHANNELS[name].check) for name in CHANNEL_NAMES}
    return Route(partitions=1, dedupe_ms=HOUR, channels=channels)


def a_send() -> Send:
    providers = {name: Provider(name, "hold") for name in CHANNEL_NAMES}
    return Send(connectors=providers, limits=SendLimits(concurrency=64, outstanding=1000, attempts=3, hold_ms=HOUR))


TWO_DELIVERIES = [record("deliveries.whatsapp", delivery(f"dlv-{i}", address=str(i))) for i in (1, 2)]


def of_an_outstanding_delivery(update: StatusUpdate) -> bool:
    """Whether send has the delivery, or does not trust its id; track decides on the others."""
    return update.delivery_id in {"dlv-1", "dlv-2"} or not limit_check.allows("delivery_id", update.delivery_id)


class Place(NamedTuple):
    """One source of one stage."""

    stage: Callable[[], Stage[Any]]
    topic: str
    cls: type[Any]
    before: Sequence[Record] = ()  # records that the stage must have before it looks at the record
    looks_at: Callable[[Any], bool] = lambda _: True  # the records that the stage decodes


PLACES = {
    "route messages": Place(a_route, "messages", Message),
    "route conversations": Place(a_route, "conversations", Conversation),
    "send deliveries": Place(a_send, "deliveries.whatsapp", Delivery),
    "send updates": Place(a_send, "status-updates", StatusUpdate, TWO_DELIVERIES, of_an_outstanding_delivery),
    "match bindings": Place(lambda: Match(partitions=1, binding_ms=HOUR, orphan_ms=HOUR), "bindings", Binding),
    "match receipts": Place(lambda: Match(partitions=1, binding_ms=HOUR, orphan_ms=HOUR), "receipts", Receipt),
    "match inbound": Place(lambda: Match(partitions=1, binding_ms=HOUR, orphan_ms=HOUR), "inbound", InboundMessage),
    "match preferences": Place(lambda: Match(partitions=1, binding_ms=HOUR, orphan_ms=HOUR), "inbound", Preference),
    "send windows": Place(a_send, "windows", Window),
    "track log": Place(lambda: Track(state_ms=HOUR, observed=OBSERVED), "conversation-log", SequencedMessage),
    "track updates": Place(lambda: Track(state_ms=HOUR, observed=OBSERVED), "status-updates", StatusUpdate),
    "track known": Place(
        lambda: Track(state_ms=HOUR, observed=OBSERVED), "status-updates", StatusUpdate, [record("conversation-log", sequenced(ref()))]
    ),
    "track reports": Place(lambda: Track(state_ms=HOUR, observed=OBSERVED), "cursor-reports", CursorReport),
    "track reports of a member": Place(
        lambda: Track(state_ms=HOUR, observed=OBSERVED), "cursor-reports", CursorReport,
        [record("conversation-log", sequenced(ref(channel="internal", account="app", recipient="ana", address="ana"), seq=600))],
    ),
    "archive log": Place(lambda: Archive(sink=Sink("postgresql://127.0.0.1:1/none"), linger_ms=0), "conversation-log", SequencedMessage),
    "archive states": Place(lambda: Archive(sink=Sink("postgresql://127.0.0.1:1/none"), linger_ms=0), "delivery-states", DeliveryState),
    "analyse messages": Place(
        lambda: Analyse(sink=ClickHouseFacts("http://127.0.0.1:1"), linger_ms=0), "conversation-log", SequencedMessage
    ),
    "analyse states": Place(lambda: Analyse(sink=ClickHouseFacts("http://127.0.0.1:1"), linger_ms=0), "delivery-states", DeliveryState),
}  # fmt: skip  # one place a line
OUTPUTS: Mapping[str, type[Any]] = {
    "conversation-log": SequencedMessage,
    "status-updates": StatusUpdate,
    "conversation-inbound": Message,
    "windows": Window,
    "bindings": Binding,
    "delivery-states": DeliveryState,
    "cursors": Cursor,
    "cursor-reports": CursorReport,
    "conversations": Conversation,
    "messages": Message,
    "suppressions": Suppression,
    **{f"deliveries.{name}": Delivery for name in CHANNEL_NAMES},
}


def check(desk: Desk[Any], decision: Decision) -> None:
    """Every output fits and is within the limits."""
    for output in decision.outputs:
        assert output.value is not None
        assert len(output.key) + len(output.value) < MOST + 1000
        codec.decode(output.value, OUTPUTS[output.topic])
    assert all(len(refusal.detail.encode()) < 2000 for refusal in decision.refusals)
    assert sum(len(output.value or b"") for output in decision.outputs) < TURN_BYTES
    for rows in desk.changelog.values():
        assert all(len(key) + len(value) < MOST for key, value in rows.items())
    written: list[Any] = []
    if isinstance(decision.writes, Writes):
        written = [*decision.writes.messages, *decision.writes.states]
    elif decision.writes:
        written = [row for chunk in decision.writes for row in chunk.rows if not isinstance(row, tuple)]
    assert not any(limit_check.fault(each) for each in written)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_record_is_refused_exactly_when_a_field_is_beyond_its_limit(place: Place) -> None:
    for case in cases(place.cls):
        desk: Desk[Any] = Desk(place.stage())
        if place.before:
            desk.turn(place.before)
        sent = record(place.topic, case.of(SAMPLES[place.cls.__name__]), key=b"key")
        if place.cls is Message and len(sent.value or b"") > MAX_RECORD_BYTES:
            continue  # larger than a record may be: the cause is `message_too_large`
        decision = desk.turn([sent])
        is_out = "field_out_of_limits" in refused(decision)
        assert is_out == case.beyond, case.name
        check(desk, decision)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@given(data=st.data())
@examples(40)
def test_any_fields_at_their_limits_together_end_no_stage(place: Place, data: st.DataObject) -> None:
    edges = list(cases(place.cls))
    desk: Desk[Any] = Desk(place.stage())
    if place.before:
        desk.turn(place.before)
    sent, beyond = [], []
    for _ in range(data.draw(st.integers(1, 4), label="records")):
        made = SAMPLES[place.cls.__name__]
        chosen = data.draw(st.lists(st.sampled_from(edges), min_size=1, max_size=6), label="fields")
        for case in chosen:
            made = case.of(made)
        sent.append(record(place.topic, made, key=b"key"))
        is_too_large = place.cls is Message and len(sent[-1].value or b"") > MAX_RECORD_BYTES
        looked_at = place.looks_at(made)
        beyond.append(looked_at and limit_check.fault(made) is not None and not is_too_large)
    left = numbered(sent)
    causes = []
    while left:
        size = data.draw(st.integers(1, len(left)), label="size of the turn")
        decision = desk.turn(left[:size])
        check(desk, decision)
        causes += refused(decision)
        left = left[size:]
        if data.draw(st.booleans(), label="restart"):
            desk.restart(place.stage())
    assert causes.count("field_out_of_limits") == sum(beyond)
    check(desk, desk.turn(now=NOW + 2 * HOUR))


LONG_TEXTS = ["\x00" * 200, "a" * 800_000, "🌻" * 100_000, "a\ud800"]
OUTCOMES: list[Outcome] = [
    *(RetryLater(text, text) for text in LONG_TEXTS),
    *(Rejected(text, text) for text in LONG_TEXTS),
    *(Unknown(text, text) for text in LONG_TEXTS),
    *(Accepted(("good", text)) for text in LONG_TEXTS),
    Accepted(("",)),
    *(RetryLater("r", "c", after_seconds=wish) for wish in (float("inf"), float("nan"), -1.0, 1e300)),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda o: ascii(o)[:40])
@pytest.mark.parametrize("policy", ["hold", "resend", "fail"])
def test_whatever_a_connector_says_becomes_updates_within_the_limits(policy: str, outcome: Outcome) -> None:
    limits = SendLimits(concurrency=1, outstanding=10, attempts=2, hold_ms=1000)
    desk = Desk(Send(connectors={"whatsapp": Provider("whatsapp", policy)}, limits=limits))
    decision = desk.turn([record("deliveries.whatsapp", delivery())])
    for turn in range(1, 4):
        if not decision.calls:
            decision = desk.turn(now=NOW + turn * 30 * 86_400_000)
        if not decision.calls:
            break
        decision = desk.turn(results=[Result(decision.calls[0], outcome)], now=NOW + turn * 30 * 86_400_000)
        check(desk, decision)
    if isinstance(outcome, Accepted):
        assert not desk.rows("outstanding")


# --- inputs that once ended a stage ----------------------------------------------------------------------------------------------


def in_turns(desk: Desk[Any], records: Sequence[Record], size: int = 2000) -> list[Decision]:
    placed = numbered(records)
    return [desk.turn(placed[i : i + size]) for i in range(0, len(placed), size)]


def count(decisions: Sequence[Decision], name: str) -> int:
    return sum(decision.counts.get(name, 0) for decision in decisions)


def a_match() -> Match:
    return Match(partitions=1, binding_ms=HOUR, orphan_ms=HOUR, tracker_keys=TRACKER_KEYS)


def test_thousands_of_reactions_to_a_message_that_is_not_ours() -> None:
    """Reactions with the same event id are one receipt; receipts with different ids wait separately, up to a bound."""
    desk = Desk(a_match())
    same = [record("receipts", receipt("1:2", channel="telegram", event_id="telegram:1:1:2:read"), key=b"k")] * 6600
    decisions = in_turns(desk, same)
    assert count(decisions, "repeated") == 6599
    assert not any(decision.refusals for decision in decisions)
    others = [record("receipts", receipt("1:3", channel="telegram", event_id=f"e{i}"), key=b"k") for i in range(6600)]
    decisions = in_turns(desk, others)
    assert sum(len(d.refusals) for d in decisions) == count(decisions, "too_many_waiting") == 6600 - MOST_WAITING
    assert {cause for d in decisions for cause in refused(d)} == {"too_many_waiting"}
    for decision in decisions:
        check(desk, decision)


def test_copies_of_one_unknown_receipt_wait_once_and_are_told_once() -> None:
    desk = Desk(a_match())
    decisions = in_turns(desk, [record("receipts", receipt(), key=b"k")] * 9000)
    assert count(decisions, "repeated") == 8999
    (output,) = desk.turn([record("bindings", binding(), key=b"k")]).outputs
    assert codec.decode(output.value, StatusUpdate).event_id == receipt().event_id


def test_orphans_without_end_become_dead_letters_a_bounded_number_a_turn() -> None:
    """Work that is due without a record must fit into one turn, because no record could be refused for it."""
    desk = Desk(a_match())
    title = "\x01" * 1000
    came = [
        record("receipts", receipt(f"w{i}", event_id=f"{j:0900}", error_title=title), key=b"k")
        for i in range(150)
        for j in range(64)
    ]
    in_turns(desk, came)
    turns, letters = 0, 0
    while (due := desk.due()) is not None and due <= NOW + 2 * HOUR:
        decision = desk.turn(now=NOW + 2 * HOUR)
        size = sum(len(refusal.record.value or b"") + 1000 for refusal in decision.refusals)
        assert 0 < size < TURN_BYTES
        letters += len(decision.refusals)
        turns += 1
    assert letters == 150 * 64
    assert turns == 5


def test_updates_for_a_delivery_nobody_told_of() -> None:
    desk = Desk(Track(state_ms=HOUR, observed=OBSERVED))
    came = [record("status-updates", update(f"e{i}")) for i in range(4300)]
    decisions = in_turns(desk, [came[0], came[0], *came])
    assert count(decisions, "repeated") == 2
    assert count(decisions, "too_many_waiting") == 4300 - MOST_EARLY
    assert {cause for d in decisions for cause in refused(d)} == {"too_many_waiting"}
    states = decoded(
        desk.turn([record("conversation-log", sequenced(ref()))]).outputs, "delivery-states", DeliveryState
    )
    assert [state.version for state in states] == list(range(1, MOST_EARLY + 2)), (
        "waiting updates are published in order"
    )


def test_updates_of_a_delivery_that_never_arrived_are_counted_when_forgotten() -> None:
    desk = Desk(Track(state_ms=HOUR, observed=OBSERVED))
    desk.turn([record("status-updates", update(f"e{i}")) for i in range(3)])
    assert desk.turn(now=NOW + 2 * HOUR).counts == {"never_introduced": 3}
    assert not desk.rows("timelines")


LINK = "https://shop.example/" + "\x01" * 200_000
NAMED = {
    "a title of 800 kB": ("match receipts", receipt(error_title="t" * 800_000)),
    "a template of 300 kB": (
        "send deliveries",
        delivery(kind="template", content=Content(template=Template("t", "en", body=("\x01" * 300_000,)))),
    ),
    "a link of control characters": (
        "send deliveries",
        delivery(kind="image", content=Content(media=(Media("image", url=LINK),))),
    ),
    "an address of 150 kB, sent": ("send deliveries", delivery(address="1" * 150_000)),
    "an address of 150 kB, tracked": ("track log", sequenced(ref(address="1" * 150_000))),
    "a conversation of 97,000 members": ("route conversations", conversation(*(f"u{i}" for i in range(97_000)))),
    "a tenant of control characters": ("route messages", message(tenant_id="\x01" * 990_000)),
    "a link of 480 kB to 2,400 people": (
        "route messages",
        message(
            kind="image",
            content=Content(media=(Media("image", url="https://shop.example/" + "a" * 480_000),)),
            recipients=tuple(to_address(str(i)) for i in range(2400)),
        ),
    ),
}


@pytest.mark.parametrize(("where", "sent"), NAMED.values(), ids=NAMED)
def test_one_record_that_ended_its_stage_is_refused_alone(where: str, sent: Any) -> None:
    place = PLACES[where]
    desk: Desk[Any] = Desk(place.stage())
    sample = SAMPLES[place.cls.__name__]
    good = record(place.topic, sample, key=key_of(sample) if place.topic == "conversations" else b"key")
    decision = desk.turn(numbered([record(place.topic, sent, key=b"key"), good]))
    assert refused(decision) == ["field_out_of_limits"]
    assert decision.refusals[0].record.offset == 0
    assert len(decision.refusals[0].detail) < 400
    check(desk, decision)


def test_a_tombstone_with_a_key_that_is_no_conversation_is_refused() -> None:
    desk = Desk(Route(partitions=4, dedupe_ms=HOUR, channels={}))
    decision = desk.turn([raw("conversations", None, key=b"\x01" * 2_000_000)])
    assert refused(decision) == ["field_out_of_limits"]
    assert not decision.outputs


TRACKERS = {
    "an attempt beyond an int": signed_tracker("|default|d1|conv-1|0|2147483648"),
    "an attempt of 400 digits": signed_tracker("|default|d1|conv-1|0|" + "9" * 400),
    "a partition of 400 digits": signed_tracker("|default|d1|conv-1|" + "9" * 400 + "|1"),
    "a partition of 1,900 digits": signed_tracker("|default|d1|conv-1|" + "9" * 1900 + "|1"),
    "digits of another script": signed_tracker("|default|d1|conv-1|٣|1"),
    "a conversation with a control character": signed_tracker("|default|d1|conv%00|0|1"),
    "a delivery without an id": signed_tracker("|default||conv-1|0|1"),
    "a tenant with a slash": signed_tracker("|a%2Fb|d1|conv-1|0|1"),
    "a delivery too long": signed_tracker("|default|" + "d" * 129 + "|conv-1|0|1"),
    "a field too few": signed_tracker("|default|d1|conv-1|0"),
}


@pytest.mark.parametrize("data", TRACKERS.values(), ids=TRACKERS)
def test_a_tracker_that_makes_no_sense_leaves_the_receipt_to_the_join_whoever_signed_it(data: str) -> None:
    desk = Desk(a_match())
    decision = desk.turn([record("receipts", receipt(callback_data=data), key=b"k")])
    assert (decision.outputs, decision.refusals) == ([], [])
    assert len(desk.rows("waiting")) == 1


def test_a_valid_tracker_with_the_same_signature_does_not() -> None:
    desk = Desk(a_match())
    data = signed_tracker("|default|d1|conv-1|0|1")
    assert len(desk.turn([record("receipts", receipt(callback_data=data), key=b"k")]).outputs) == 1


PEOPLE = tuple(to_address(f"1555{i:07}") for i in range(5000))


def test_what_one_message_makes_is_bounded_before_it_is_made() -> None:
    desk = Desk(a_route())
    large = message("large", text="a" * 4000, recipients=PEOPLE)
    fits = message("fits", text="a" * 2000, recipients=PEOPLE)
    decision = desk.turn(numbered([record("messages", large), record("messages", fits)]))
    assert refused(decision) == ["message_too_large"]
    assert sum(len(output.value or b"") for output in decision.outputs) < MAX_OUTPUT_BYTES
    assert decision.counts["deliveries"] == 5000
    too_many = dataclasses.replace(
        fits, message_id="many", recipients=(*PEOPLE, Recipient(channel="whatsapp", address="0"))
    )
    assert refused(desk.turn([record("messages", too_many)])) == ["field_out_of_limits"]


def test_a_turn_of_large_messages_stops_before_memory_grows() -> None:
    """The engine tries again with fewer records and refuses none of them."""
    desk = Desk(a_route())
    large = numbered([record("messages", message(f"m{i}", text="a" * 1500, recipients=PEOPLE)) for i in range(12)])
    with pytest.raises(Exception, match="a turn may make") as raised:
        desk.decide(large)
    assert getattr(raised.value, "together", False)
    desk.reopen()
    assert not desk.rows("seen")
    assert desk.turn(large[:2]).counts["accepted"] == 2


def test_what_is_due_in_send_comes_in_bounded_turns() -> None:
    """Rows that are due at the same time are all written in that moment, and no record could be refused for all of them."""
    desk = Desk(a_send())
    heavy = delivery(text="\x01" * 65_536)
    came = [
        record(
            "deliveries.whatsapp",
            dataclasses.replace(heavy, delivery_id=f"d{i}", seq=i + 1, address=f"a{i}"),
        )
        for i in range(200)
    ]
    decisions = in_turns(desk, came, 50)
    calls = [call for decision in decisions for call in decision.calls]
    while calls:
        decision = desk.turn(results=[Result(call, Unknown("no answer")) for call in calls])
        calls = list(decision.calls)
    later = NOW + 2 * HOUR
    resent = 0
    while resent < 200:
        decision = desk.decide(now=later)
        size = sum(len(value or b"") for table in desk.tables.values() for _, value in table.changes())
        assert size < TURN_BYTES // 4
        desk.commit()
        assert 0 < decision.counts["resent"] <= DUE_PER_TURN
        resent += decision.counts["resent"]


def test_blocked_accounts_are_forgotten_when_their_time_has_passed() -> None:
    desk = Desk(a_send())
    throttled = RetryLater("slow", "429", after_seconds=1.0, throttled=True, scope=Scope.ACCOUNT)
    calls: list[Call] = []
    for i in range(1500):
        sent = record("deliveries.whatsapp", delivery(f"d{i}", account=f"acc{i}", address=f"a{i}"), offset=i)
        decision = desk.turn([sent], [Result(call, throttled) for call in calls], now=NOW + i * 10_000)
        calls = list(decision.calls)
    assert len(desk.state.blocked) <= 64 + 1, "no more than accounts with calls in flight"
