"""Stage route: what is accepted, what is refused and why; a message id is accepted once, whatever happens in between."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from connectors.registry import CHANNELS
from pipelines.engine.stage import Output, Record
from pipelines.recipients import Reachable
from pipelines.route import EXPIRED_PER_TURN, MAX_RECORD_BYTES, Route, State
from schemas import codec
from schemas.accounts import Accounts
from schemas.causes import DESCRIPTIONS
from schemas.content import Content, Media, Template
from schemas.keys import contact_key
from schemas.records import Address, Contact, Delivery, Direction, Message, Recipient, SequencedMessage
from tests.support.builders import (
    HERE,
    NOW,
    PARTITIONS,
    Desk,
    conversation,
    conversation_at_home,
    decoded,
    delivery,
    message,
    numbered,
    raw,
    record,
    refused,
    to_address,
    to_user,
)

DEDUPE_MS = 7 * 86_400_000
ACCOUNTS = {"whatsapp": "acc-wa", "telegram": "4242"}
LISTED = Accounts(
    {
        ("whatsapp", "acc-acme"): "acme",
        ("whatsapp", "acc-acme-2"): "acme",
        ("telegram", "88"): "acme",
    }
)
ELSEWHERE = conversation_at_home(2)


def contact(user_id: str, *addresses: Address, **changes: object) -> Contact:
    fields: dict[str, object] = {"user_id": user_id, "addresses": addresses, "updated_at": NOW - 900}
    return Contact(**(fields | changes))  # type: ignore[arg-type]  # the fields' own types, by name


CONTACTS: Mapping[bytes, Contact] = {
    contact_key(each.tenant_id, each.user_id).encode(): each
    for each in (
        contact("ana", Address(channel="telegram", address="501"), Address(channel="whatsapp", address="15550001")),
        contact("bob", Address(channel="whatsapp", address="15550002", account="acc-wa")),
        contact(
            "eva",
            Address(channel="whatsapp", address="15550003"),
            Address(channel="telegram", address="503"),
            opt_outs=("whatsapp",),
        ),
        contact("gil", Address(channel="instagram", address="ig-4"), Address(channel="telegram", address="504")),
        contact("hugo", Address(channel="whatsapp", address="15550005"), opt_outs=("whatsapp",)),
        contact("iris", Address(channel="whatsapp", address="15550006"), tenant_id="other"),
        contact("jo"),
        contact("lea", Address(channel="whatsapp", address="8", account="acc-acme-2"), tenant_id="acme"),
        contact("kim", Address(channel="whatsapp", address="15550007", account="acc-acme")),
    )
}


def a_route() -> Route:
    channels = {name: Reachable(account, CHANNELS[name].check) for name, account in ACCOUNTS.items()}
    return Route(partitions=PARTITIONS, dedupe_ms=DEDUPE_MS, channels=channels, accounts=LISTED)


def a_desk(partition: int = 0, stage: Route | None = None) -> Desk[State]:
    return Desk(stage or a_route(), partition, {"contacts": CONTACTS})


@pytest.fixture
def desk() -> Desk[State]:
    return a_desk()


def of(*messages: Message) -> list[Record]:
    return numbered([record("messages", each) for each in messages])


def sequences(outputs: Sequence[Output]) -> list[tuple[str, int]]:
    return [(each.message_id, each.seq) for each in decoded(outputs, "conversation-log", SequencedMessage)]


# --- accepted -----------------------------------------------------------------------------------------------------------


def test_a_message_becomes_its_log_record_and_its_deliveries_at_home(desk: Desk[State]) -> None:
    sent = message(
        recipients=(to_address("15550001"), to_address("501", channel="telegram")),
        metadata={"order": "7"},
        not_before=NOW + 5,
        expires_at=NOW + 50,
    )
    decision = desk.turn(of(sent))
    assert [(o.topic, o.key, o.partition) for o in decision.outputs] == [
        ("conversation-log", HERE.encode(), 0),
        ("deliveries.whatsapp", HERE.encode(), 0),
        ("deliveries.telegram", HERE.encode(), 0),
    ]
    (logged,) = decoded(decision.outputs, "conversation-log", SequencedMessage)
    (first,) = decoded(decision.outputs, "deliveries.whatsapp", Delivery)
    (second,) = decoded(decision.outputs, "deliveries.telegram", Delivery)
    assert (logged.seq, logged.accepted_at, logged.requested_at, logged.metadata) == (1, NOW, NOW - 50, {"order": "7"})
    assert [(r.delivery_id, r.channel, r.account, r.address) for r in logged.deliveries] == [
        (first.delivery_id, "whatsapp", "acc-wa", "15550001"),
        (second.delivery_id, "telegram", "4242", "501"),
    ]
    for each in (first, second):
        assert (each.seq, each.text, each.not_before, each.expires_at) == (1, "olá", NOW + 5, NOW + 50)
        assert (each.message_id, each.home_partition, each.accepted_at) == ("msg-1", 0, NOW)
    assert decision.counts == {"accepted": 1, "deliveries": 2}
    assert not decision.refusals


def test_sequences_count_without_gaps_through_duplicates_and_refusals(desk: Desk[State]) -> None:
    other = conversation_at_home(0, number=1)
    decision = desk.turn(
        of(
            message("a"),
            message("b", recipients=()),
            message("a"),
            message("c"),
            message("d", conversation_id=other),
            message("e", text="x" * 5000),
            message("f"),
        )
    )
    assert sequences(decision.outputs) == [("a", 1), ("c", 2), ("d", 1), ("f", 3)]
    assert sequences(desk.turn(of(message("g"))).outputs) == [("g", 4)]


def test_an_inbound_message_takes_its_place_and_makes_no_delivery(desk: Desk[State]) -> None:
    inbound = message("in-1", direction=Direction.INBOUND, recipients=(), text="x" * 9000, kind="photo")
    decision = desk.turn([*of(message("a")), record("conversation-inbound", inbound), *of(message("b"))])
    assert sequences(decision.outputs) == [("a", 1), ("in-1", 2), ("b", 3)]
    assert decision.counts["deliveries"] == 2


class Reached(NamedTuple):
    label: str
    recipient: Recipient
    expected: tuple[str, str, str, str]  # channel, account, recipient, address


REACHED = (
    Reached("an address", to_address("15559"), ("whatsapp", "acc-wa", "15559", "15559")),
    Reached("an address with a user id", to_address("15559", user_id="zoe"), ("whatsapp", "acc-wa", "zoe", "15559")),
    Reached(
        "an address with an account",
        Recipient(channel="telegram", address="7", account="4242"),
        ("telegram", "4242", "7", "7"),
    ),
    Reached("the first of the preference", to_user("ana"), ("telegram", "4242", "ana", "501")),
    Reached("the wanted channel", to_user("ana", channel="whatsapp"), ("whatsapp", "acc-wa", "ana", "15550001")),
    Reached("the contact's own account", to_user("bob"), ("whatsapp", "acc-wa", "bob", "15550002")),
    Reached("past an opt-out", to_user("eva"), ("telegram", "4242", "eva", "503")),
    Reached("past a channel we do not have", to_user("gil"), ("telegram", "4242", "gil", "504")),
)


@pytest.mark.parametrize("case", REACHED, ids=lambda case: case.label)
def test_a_recipient_is_reached_at(case: Reached, desk: Desk[State]) -> None:
    (logged,) = decoded(
        desk.turn(of(message(recipients=(case.recipient,)))).outputs, "conversation-log", SequencedMessage
    )
    (found,) = logged.deliveries
    assert (found.channel, found.account, found.recipient, found.address) == case.expected


def test_the_same_recipient_twice_is_one_delivery(desk: Desk[State]) -> None:
    decision = desk.turn(of(message(recipients=(to_user("ana"), to_user("ana"), to_address("1"), to_address("1")))))
    (logged,) = decoded(decision.outputs, "conversation-log", SequencedMessage)
    assert [each.address for each in logged.deliveries] == ["501", "1"]
    assert decision.counts["deliveries"] == 2


def test_delivery_ids_name_the_message_and_the_recipient_only() -> None:
    ids = []
    for now in (NOW, NOW + 99):
        desk = a_desk()
        desk.turn(of(*(message(f"before-{each}") for each in range(now - NOW))))
        sent = message("m", recipients=(to_user("ana"), to_address("1")), requested_at=now)
        outputs = desk.turn(of(sent), now=now).outputs
        ids.append([each.delivery_id for name in CHANNELS for each in decoded(outputs, f"deliveries.{name}", Delivery)])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    there = conversation_at_home(0, number=1)
    of_t = conversation_at_home(0, tenant_id="t")
    others = [
        message("m"),
        message("n"),
        message("m", conversation_id=there),
        message("m", tenant_id="t", conversation_id=of_t),
        message("o", recipients=(to_address("2"),)),
        message("px", recipients=(to_address("y"),)),
        message("p", recipients=(to_address("xy"),)),
    ]
    found = decoded(a_desk().turn(of(*others)).outputs, "deliveries.whatsapp", Delivery)
    assert len({each.delivery_id for each in found}) == len(others)


# --- duplicates ---------------------------------------------------------------------------------------------------------

REPEATED = {
    "byte-equal": message("m"),
    "asked for again later": message("m", requested_at=NOW + 7),
    "with other labels": message("m", metadata={"try": "2"}),
}


@pytest.mark.parametrize("again", REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize("apart", [False, True], ids=["one turn", "two turns"])
def test_a_repetition_is_dropped_and_counted(again: Message, *, apart: bool, desk: Desk[State]) -> None:
    first, second = of(message("m"), again)
    decisions = [desk.turn([first]), desk.turn([second])] if apart else [desk.turn([first, second])]
    assert sequences([o for d in decisions for o in d.outputs]) == [("m", 1)]
    assert sum(d.counts.get("duplicate", 0) for d in decisions) == 1
    assert not any(d.refusals for d in decisions)


REUSED = {
    "text": message("m", text="other"),
    "recipient": message("m", recipients=(to_address("2"),)),
    "sender": message("m", sender="other"),
}


@pytest.mark.parametrize("reuse", REUSED.values(), ids=REUSED)
def test_an_id_reused_for_another_message_is_refused(reuse: Message, desk: Desk[State]) -> None:
    desk.turn(of(message("m")))
    before = {name: dict(rows) for name, rows in desk.changelog.items()}
    decision = desk.turn(of(reuse))
    assert refused(decision) == ["message_id_conflict"]
    assert not decision.outputs
    assert desk.changelog == before


def test_the_same_id_of_a_person_and_of_an_application_is_refused(desk: Desk[State]) -> None:
    desk.turn(of(message("m")))
    assert refused(desk.turn([record("conversation-inbound", message("m", direction=Direction.INBOUND))])) == [
        "message_id_conflict"
    ]


def test_an_id_is_remembered_for_the_window_and_then_forgotten(desk: Desk[State]) -> None:
    desk.turn(of(message("m")))
    assert desk.turn(of(message("m")), now=NOW + DEDUPE_MS - 1).counts == {"duplicate": 1}
    again = NOW + DEDUPE_MS
    assert sequences(desk.turn(of(message("m")), now=again).outputs) == [("m", 2)]
    old_row_is_due = again + 60_000
    desk.turn(now=old_row_is_due)
    assert desk.turn(of(message("m")), now=old_row_is_due).counts == {"duplicate": 1}, (
        "the window counts from the latest"
    )


def test_ids_past_the_window_leave_the_table_by_the_clock_alone(desk: Desk[State]) -> None:
    desk.turn(of(*(message(f"m{i}") for i in range(20))))
    desk.turn(of(message("late")), now=NOW + 3_600_001)
    due = desk.due()
    assert due is not None
    assert due >= NOW + DEDUPE_MS
    desk.turn(now=due)
    assert list(desk.changelog["seen"]) == [f"default/{HERE}/late".encode()]
    assert desk.due() is not None, "the late one is due at its own time"
    desk.restart(a_route())
    desk.turn(now=desk.due() or 0)
    assert not desk.changelog["seen"]
    assert desk.due() is None


def test_forgetting_is_bounded_in_a_turn_and_continues_in_the_next(desk: Desk[State]) -> None:
    ids = [f"m{i}" for i in range(EXPIRED_PER_TURN + 10)]
    written = (message(each, direction=Direction.INBOUND, recipients=()) for each in ids)
    desk.turn(numbered([record("conversation-inbound", each) for each in written]))
    due = desk.due() or 0
    desk.turn(now=due)
    assert len(desk.changelog["seen"]) == 10
    assert desk.due() == due, "the rest is due at once"
    desk.turn(now=due)
    assert not desk.changelog["seen"]


# --- refused ------------------------------------------------------------------------------------------------------------


class Refusable(NamedTuple):
    label: str
    cause: str
    record: Record


def _refusable(label: str, cause: str, message_id: str = "bad", **changes: object) -> Refusable:
    return Refusable(label, cause, record("messages", message(message_id, **changes)))


def _with_account(account: str) -> Recipient:
    return Recipient(channel="whatsapp", address="1", account=account)


GOOD_BYTES = codec.encode(message("bad"))
REFUSABLE = (
    Refusable("no value", "not_avro", raw("messages", None)),
    Refusable("an empty value", "not_avro", raw("messages", b"")),
    Refusable("JSON", "not_avro", raw("messages", b'{"message_id": "m"}')),
    Refusable("a wrong magic byte", "not_avro", raw("messages", b"\x01" + GOOD_BYTES[1:])),
    Refusable("an unknown schema", "unknown_schema", raw("messages", b"\x00\x00\x00\xff\xff" + GOOD_BYTES[5:])),
    Refusable("truncated", "malformed_datum", raw("messages", GOOD_BYTES[:-3])),
    Refusable("bytes left over", "malformed_datum", raw("messages", GOOD_BYTES + b"\x00")),
    Refusable("another record", "unexpected_record", record("messages", delivery())),
    Refusable("no key", "no_key", record("messages", message("bad"), key=None)),
    Refusable("an empty key", "no_key", record("messages", message("bad"), key=b"")),
    Refusable("over 1 MB", "message_too_large", raw("messages", GOOD_BYTES + b"x" * MAX_RECORD_BYTES)),
    _refusable("no recipient", "no_recipient", recipients=()),
    _refusable("an empty recipient", "no_recipient", recipients=(Recipient(channel="whatsapp"),)),
    _refusable("an unknown channel", "unknown_channel", recipients=(to_address("1", channel="pigeon"),)),
    _refusable("a channel not configured", "unknown_channel", recipients=(to_address("1", channel="instagram"),)),
    _refusable("an address without a channel", "unknown_channel", recipients=(to_address("1", channel=None),)),
    _refusable("another direction", "inbound_not_allowed", direction=Direction.INBOUND, recipients=()),
    Refusable(
        "an application's on conversation-inbound",
        "inbound_not_allowed",
        record("conversation-inbound", message("bad")),
    ),
    _refusable("another tenant's account", "account_not_yours", recipients=(_with_account("acc-acme"),)),
    _refusable("an account of no tenant", "account_not_yours", recipients=(_with_account("acc-of-nobody"),)),
    _refusable("another tenant's account in a contact", "account_not_yours", recipients=(to_user("kim"),)),
    _refusable("an unknown user", "unknown_user", recipients=(to_user("nobody"),)),
    _refusable("another tenant's user", "unknown_user", recipients=(to_user("iris"),)),
    _refusable("a user without an address", "unreachable_user", recipients=(to_user("jo"),)),
    _refusable(
        "no address on the wanted channel", "unreachable_user", recipients=(to_user("bob", channel="telegram"),)
    ),
    _refusable("opted out of the wanted channel", "unreachable_user", recipients=(to_user("eva", channel="whatsapp"),)),
    _refusable("opted out of everything", "unreachable_user", recipients=(to_user("hugo"),)),
    _refusable("one good and one unknown user", "unknown_user", recipients=(to_user("ana"), to_user("nobody"))),
    _refusable("4097 characters on WhatsApp", "content_not_supported", text="x" * 4097),
    _refusable(
        "4097 UTF-16 units on Telegram",
        "content_not_supported",
        text="🌻" * 2049,
        recipients=(to_address("5", channel="telegram"),),
    ),
    _refusable(
        "good for one channel, not for the other",
        "content_not_supported",
        text="🌻" * 2049,
        recipients=(to_address("1"), to_address("5", channel="telegram")),
    ),
    _refusable("an empty text", "content_not_supported", text=""),
    _refusable(
        "a kind the channel has not",
        "content_not_supported",
        kind="template",
        content=Content(template=Template("t", "en")),
        recipients=(to_address("5", channel="telegram"),),
    ),
    _refusable("a kind nobody knows", "contradictory_content", kind="hologram"),
    _refusable("an image without an image", "contradictory_content", kind="image"),
    _refusable(
        "an image that is a text", "contradictory_content", content=Content(media=(Media("image", url="http://x/"),))
    ),
    _refusable("an empty message id", "field_out_of_limits", message_id=""),
    _refusable("a message id of 129 bytes", "field_out_of_limits", message_id="é" * 65),
    _refusable("a conversation id of 257 bytes", "field_out_of_limits", conversation_id="c" * 257),
    Refusable(
        "an empty conversation id",
        "field_out_of_limits",
        record("messages", message("bad", conversation_id=""), key=b"c"),
    ),
    _refusable("a tenant with a slash", "field_out_of_limits", tenant_id="a/b"),
    _refusable("an empty tenant", "field_out_of_limits", tenant_id=""),
    _refusable("too many labels", "field_out_of_limits", metadata={str(i): "" for i in range(33)}),
)


@pytest.mark.parametrize("case", REFUSABLE, ids=lambda case: case.label)
def test_what_is_refused_leaves_no_trace_and_the_rest_flows(case: Refusable) -> None:
    with_it, without = a_desk(), a_desk()
    before, after = of(message("before"), message("after"))
    bad = case.record._replace(offset=7, headers=(("traceparent", b"00-1"),))
    decision = with_it.committed([before, bad, after])
    assert refused(decision) == [case.cause]
    assert case.cause in DESCRIPTIONS
    assert decision.refusals[0].record == bad, "with its bytes, key, headers, partition and offset"
    assert decision.refusals[0].detail
    expected = without.turn([before, after])
    assert decision.outputs == expected.outputs
    assert with_it.changelog == without.changelog


LIMITS = {
    "4096 characters": message(text="🌻" * 4096),
    "a message id of 128 bytes": message("é" * 64),
    "as many labels as allowed": message(metadata={str(i): "" for i in range(32)}),
    "a tenant of 64 characters": message(
        tenant_id="t" * 64, conversation_id=conversation_at_home(0, tenant_id="t" * 64)
    ),
}


@pytest.mark.parametrize("sent", LIMITS.values(), ids=LIMITS)
def test_a_message_at_the_limit_is_accepted(sent: Message, desk: Desk[State]) -> None:
    decision = desk.turn(of(sent))
    assert not decision.refusals
    assert decision.counts["accepted"] == 1


def test_no_output_is_larger_than_a_record_may_be(desk: Desk[State]) -> None:
    """An output larger than the producer takes would end the worker at each restart."""
    people = tuple(to_address(f"{i:0150}") for i in range(4_500))
    assert len(codec.encode(message("many", recipients=people))) < MAX_RECORD_BYTES
    decision = desk.turn(of(message("many", recipients=people)))
    assert refused(decision) == ["message_too_large"]
    assert not decision.outputs
    assert not desk.changelog["seen"]


# --- groups -------------------------------------------------------------------------------------------------------------


def addresses(outputs: Sequence[Output]) -> set[str]:
    logged = decoded(outputs, "conversation-log", SequencedMessage)
    return {each.address for one in logged for each in one.deliveries}


def to_group(message_id: str = "m", **changes: object) -> Record:
    return record("messages", message(message_id, recipients=(), **changes))


def members(*user_ids: str, **changes: object) -> Record:
    return record("conversations", conversation(*user_ids, **changes))


@pytest.mark.parametrize("turns", [1, 2], ids=["one turn, the message first", "the turn before"])
def test_a_group_is_reached_through_its_conversation(turns: int, desk: Desk[State]) -> None:
    batch = [to_group(), members("ana", "bob")]
    if turns == 1:
        outputs = desk.turn(numbered(batch)).outputs
    else:
        desk.turn(numbered(batch[1:]))
        outputs = desk.turn(numbered(batch[:1])).outputs
    assert addresses(outputs) == {"501", "15550002"}


def test_the_latest_members_count_and_a_tombstone_ends_the_group(desk: Desk[State]) -> None:
    desk.turn([members("ana")])
    desk.turn([members("bob")])
    assert addresses(desk.turn([to_group("a")]).outputs) == {"15550002"}
    desk.turn([raw("conversations", None, key=HERE.encode())])
    assert refused(desk.turn([to_group("b")])) == ["no_recipient"]


def test_a_group_without_members_is_refused(desk: Desk[State]) -> None:
    desk.turn([members()])
    assert refused(desk.turn([to_group()])) == ["no_recipient"]


def test_one_unreachable_member_refuses_the_whole_message(desk: Desk[State]) -> None:
    decision = desk.committed(numbered([members("ana", "hugo"), to_group("a"), record("messages", message("b"))]))
    assert refused(decision) == ["unreachable_user"]
    assert sequences(decision.outputs) == [("b", 1)]


def test_a_conversation_that_cannot_be_read_is_refused(desk: Desk[State]) -> None:
    decision = desk.turn([raw("conversations", b"junk"), raw("conversations", b"", key=b"", offset=1)])
    assert refused(decision) == ["not_avro", "not_avro"]


# --- home ---------------------------------------------------------------------------------------------------------------

ASTRAY = {
    "a message": record("messages", message("m", conversation_id=ELSEWHERE)),
    "members": members("ana", conversation_id=ELSEWHERE),
    "a person's message": record(
        "conversation-inbound", message("m", conversation_id=ELSEWHERE, direction=Direction.INBOUND)
    ),
}


@pytest.mark.parametrize("astray", ASTRAY.values(), ids=ASTRAY)
def test_a_record_in_the_wrong_partition_is_rerouted_unchanged(astray: Record, desk: Desk[State]) -> None:
    astray = astray._replace(headers=(("traceparent", b"00-1"), ("hop", None)))
    decision = desk.turn([astray])
    assert decision.outputs == [Output(astray.topic, ELSEWHERE.encode(), astray.value or b"", 2, astray.headers)]
    assert decision.counts == {"rerouted": 1}
    assert not any(desk.changelog.values()), "it is processed once, in its home partition"


def test_a_tombstone_in_the_wrong_partition_is_rerouted_too(desk: Desk[State]) -> None:
    decision = desk.turn([raw("conversations", None, key=ELSEWHERE.encode())])
    assert decision.outputs == [Output("conversations", ELSEWHERE.encode(), None, 2, ())]
    home = a_desk(2)
    home.turn([members("ana", conversation_id=ELSEWHERE)])
    home.turn([raw("conversations", decision.outputs[0].value, key=ELSEWHERE.encode(), partition=2)])
    assert not home.changelog["conversations"]


def test_a_rerouted_record_is_accepted_at_home() -> None:
    (sent,) = a_desk().turn([ASTRAY["a message"]]).outputs
    home = a_desk(2)
    decision = home.turn([raw("messages", sent.value, key=sent.key, partition=2)])
    assert sequences(decision.outputs) == [("m", 1)]
    assert {o.partition for o in decision.outputs} == {2}


def test_a_conversation_that_began_here_stays() -> None:
    """The partition count was wrong at first, or the producer has a custom partitioner: the conversation must not be split."""
    begun = Route(partitions=1, dedupe_ms=DEDUPE_MS, channels=a_route()._channels, accounts=LISTED)
    desk = a_desk(stage=begun)
    desk.turn(of(message("a", conversation_id=ELSEWHERE)))
    desk.restart(a_route())
    decision = desk.turn(of(message("b", conversation_id=ELSEWHERE), message("c", conversation_id=ELSEWHERE)))
    assert sequences(decision.outputs) == [("b", 2), ("c", 3)]
    assert {o.partition for o in decision.outputs} == {0}
