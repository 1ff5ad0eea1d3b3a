"""Masked rows show no text and no address: every field of every table is either shown or masked, by name."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.row_masking import PARTS_SHOWN, SHOWN, WHOLE, masked, masked_id, masked_key
from pipelines.stages import APPS, tables
from schemas import codec, records
from schemas.content import Content, Location, Media, Template
from tables.bindings import BINDINGS, WAITING, BoundDelivery, WaitingReceipt
from tables.conversations import CONVERSATIONS, Members
from tables.cursors import CURSORS, MemberCursor
from tables.held import HELD
from tables.member_addresses import MEMBER_ADDRESSES, AddressOfMember
from tables.messages import MESSAGE_STATES, MESSAGES, LoggedMessage, MessageState, pending
from tables.orphans import ORPHANS, OrphanedReceipts
from tables.outstanding import OUTSTANDING, Outstanding
from tables.plans import PLANS
from tables.seen import SEEN
from tables.sequences import SEQUENCES
from tables.stalled import AWAITING, STALLED, StalledDelivery
from tables.suppressed import SUPPRESSED, SuppressedAddress
from tables.threads import (
    ANSWERABLE,
    HELD_INBOUND,
    RECEIVED,
    THREADS,
    Answerable,
    HeldInbound,
    KnownConversation,
    KnownThreads,
    ReceivedMessage,
)
from tables.timeline_layout import TIMELINES
from tables.timelines import introduce
from tables.windows import WINDOWS
from tests.support.builders import binding, delivery, inbound_message, receipt, ref, sequenced, update

# Texts, addresses, names of people, providers' message ids (WhatsApp's contain the number), and texts of providers.
HIDDEN = {
    "address", "addresses", "anomaly", "body", "buttons", "callback_data", "content", "deliveries", "delivery", "early", "error_title",
    "event_id", "places", "message",
    "evidence", "filename", "frames", "header", "headers", "latitude", "location", "longitude", "media",
    "member", "members", "metadata", "mime_type",
    "name", "provider_media_id", "provider_message_id", "reaction", "reason", "receipts", "recipient", "recipients", "reply_to", "sender",
    "template", "text", "time_zone", "url", "user_id", "user_ids", "opt_outs",
}  # fmt: skip  # a list of names
PERSON = "15557654321"
DELIVERY_ID = "0123456789abcdef0123456789abcdef"
PERSONAL = ("olá", "secret-words", PERSON, "wamid.of-", "Ana", "-23.5")
CONTENT = Content(
    media=(Media("image", url=f"https://x.example/{PERSON}.jpg", filename="Ana.jpg"),),
    template=Template("secret-words", "pt_BR", body=("Ana",)),
    location=Location(-23.5, -46.6, "Ana", "Ana"),
    reply_to=f"wamid.of-{PERSON}",
)


def rows() -> Iterator[tuple[str, Any]]:
    sent = delivery(
        address=PERSON,
        recipient=PERSON,
        text="secret-words olá",
        content=CONTENT,
        conversation_id=f"whatsapp:1:{PERSON}",
    )
    yield (
        "outstanding",
        OUTSTANDING.as_json(Outstanding(sent, ("deliveries.whatsapp", 1, 2), evidence=f"wamid.of-{PERSON}")),
    )
    bound = binding(f"wamid.of-{PERSON}", conversation_id=f"internal:app:{PERSON}")
    yield "bindings", BINDINGS.as_json(BoundDelivery("t", bound.delivery_id, bound.conversation_id, 1, 2))
    waiting = receipt(f"wamid.of-{PERSON}", error_title="Ana has no WhatsApp", callback_data=f"c4a1|{PERSON}")
    place = (5, 6, f"whatsapp:1:wamid.of-{PERSON}:read")
    yield "waiting", WAITING.as_json(WaitingReceipt(1, (place,), (codec.encode(waiting),)))
    yield "orphans", ORPHANS.as_json(OrphanedReceipts(1, ("no_binding",), (place,), (codec.encode(waiting),)))
    person = f"whatsapp:1:{PERSON}"
    yield "threads", THREADS.as_json(KnownThreads((KnownConversation("t", person, 1, 2),), 3))
    yield "answerable", ANSWERABLE.as_json(Answerable("t", person, 1, "m-1", 2))
    yield "received", RECEIVED.as_json(ReceivedMessage("t", person, 1, f"whatsapp:1:wamid.of-{PERSON}", 2))
    written = inbound_message(f"wamid.of-{PERSON}", address=PERSON, text="secret-words olá", content=CONTENT)
    yield "held_inbound", HELD_INBOUND.as_json(HeldInbound(1, 2, 3, written))
    yield "conversations", CONVERSATIONS.as_json(Members("t", (PERSON, "Ana"), 1))
    timeline, _ = introduce(sequenced(), dataclasses.replace(ref(), address=PERSON, recipient="Ana"), 0, 0)
    early = update(f"whatsapp:1:wamid.of-{PERSON}:read", provider_message_id=f"wamid.of-{PERSON}", reason="Ana")
    yield "timelines", TIMELINES.as_json(timeline._replace(reason="Ana", provider_message_id=PERSON, early=(early,)))
    yield "member_addresses", MEMBER_ADDRESSES.as_json(AddressOfMember("Ana"))
    theirs = ("t", f"whatsapp:1:{PERSON}", f"whatsapp:1:wamid.of-{PERSON}", 7)
    yield (
        "messages",
        MESSAGES.as_json(LoggedMessage(*theirs, "INBOUND", "text", 1, 1, (DELIVERY_ID,))),
    )
    yield "message_states", MESSAGE_STATES.as_json(MessageState(*theirs, pending(3), 1))
    yield "stalled", STALLED.as_json(StalledDelivery(*theirs, "whatsapp", "1", 1, 2))
    stopped = SuppressedAddress("t", "whatsapp", "1", PERSON, wish="stop_word", wish_stops=True, wish_at=5)
    yield "suppressed", SUPPRESSED.as_json(stopped)
    yield "cursors", CURSORS.as_json(MemberCursor("t", f"whatsapp:1:{PERSON}", PERSON, made=2, made_seq=3))


@pytest.mark.parametrize(("table", "row"), list(rows()), ids=[table for table, _ in rows()])
def test_no_row_shows_a_text_or_an_address(table: str, row: Any) -> None:
    whole, cut = (json.dumps(each, ensure_ascii=False, default=str) for each in (row, masked(row)))
    assert any(each in whole for each in PERSONAL), table
    assert [each for each in PERSONAL if each in cut] == []


def test_what_an_operator_needs_is_shown() -> None:
    cut = masked(dict(rows())["outstanding"])
    assert cut["delivery"]["delivery_id"] == delivery().delivery_id
    assert cut["delivery"]["conversation_id"] == "whatsapp:1:***"
    assert (cut["phase"], cut["attempt"], cut["source"]) == ("waiting", 0, ["deliveries.whatsapp", 1, 2])
    assert cut["delivery"]["text"] == "***"
    assert masked({"seq": 3}) == {"seq": 3}


def test_what_an_operator_looks_for_in_messages_is_shown() -> None:
    found = dict(rows())
    cut = masked(found["message_states"])
    assert (cut["seq"], cut["counts"]) == (7, [3, 0, 0, 0, 0, 0, 0, 0])
    shown = ("by_status", "worst", "best", "sent", "delivered", "read", "failed")
    assert [cut["summary"][name] for name in shown] == [
        {"PENDING": 3},
        "PENDING",
        "PENDING",
        "none",
        "none",
        "none",
        "none",
    ]
    of_a_person = {"conversation_id": "whatsapp:1:***", "message_id": "whatsapp:1:***"}
    assert masked(found["messages"]) == found["messages"] | of_a_person | {
        "delivery_ids": ["0123456789abcdef0123456789abcdef"]
    }
    assert masked(found["stalled"])["stalled_at"] == 2


def test_an_unknown_field_is_masked_and_so_is_all_metadata() -> None:
    assert masked({"new": "Ana", "flag": True, "none": None, "empty": "", "list": ["Ana", 1]}) == {
        "new": "***",
        "flag": True,
        "none": None,
        "empty": "",
        "list": ["***", "***"],
    }
    assert masked({"metadata": {"kind": "secret-words"}}) == {"metadata": "***"}


def test_every_field_of_every_row_is_shown_or_hidden() -> None:
    """A new field is masked until SHOWN names it."""
    layouts = (
        *(OUTSTANDING, HELD, BINDINGS, WAITING, CONVERSATIONS, TIMELINES, PLANS, SEQUENCES, WINDOWS),
        *(ORPHANS, THREADS, ANSWERABLE, RECEIVED, HELD_INBOUND, SUPPRESSED),
        *(CURSORS, MEMBER_ADDRESSES, MESSAGES, MESSAGE_STATES, AWAITING, STALLED),
    )
    found = {name for layout in layouts for name in _fields(_row_class(layout))} | {"digest", "accepted_at"}
    found |= {name for each in typing.get_args(records.Record) for name in _fields(each) if each.__name__ in KEPT}
    assert found - SHOWN - HIDDEN == set()
    assert set() == SHOWN & (HIDDEN | WHOLE)
    assert {"archive", "analyse", "core", "register"} == set(APPS), "check the tables of a new app"
    assert SEEN.name == "seen"


KEPT = {"Message", "Delivery", "Receipt", "StatusUpdate"}  # records that rows contain


def _row_class(layout: Any) -> Any:
    return getattr(layout, "row", None) or typing.get_type_hints(type(layout).decode)["return"]


def _fields(kind: Any) -> Iterator[str]:
    """Names of a row's fields, and of the fields of records in it."""
    for name, hint in typing.get_type_hints(kind).items():
        yield name
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner) or hasattr(inner, "_fields"):
                yield from _fields(inner)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("c-1", "c-1"),
        ("acme/c-1", "acme/c-1"),
        (f"whatsapp:106540352242922:{PERSON}", "whatsapp:106540352242922:***"),
        (f"acme/internal:app:ana/{PERSON}", "acme/internal:app:***"),
        ("telegram:7310256241:5005:17", "telegram:7310256241:***"),
        (
            f"default/whatsapp%3A106%3A{PERSON}/whatsapp%3A106%3Awamid.X",
            "default/whatsapp%3A106%3A***/whatsapp%3A106%3A***",
        ),
        (f"/tables/sequences/whatsapp:106:{PERSON}?partitions=1", "/tables/sequences/whatsapp:106:***"),
        (f"+{PERSON}", "***"),
        (f"{PERSON}/whatsapp:106:{PERSON}", "***/whatsapp:106:***"),
        (f"whatsapp%3A106%3A{PERSON}/{PERSON}", "whatsapp%3A106%3A***/***"),
        (f"order-{PERSON}-x", "order-***-x"),
        ("1814c0fcb1e76a7ae5df8138ca409447", "1814c0fcb1e76a7ae5df8138ca409447"),
        ("messages/3/1207", "messages/3/1207"),
    ],
)
def test_an_id_keeps_what_is_of_no_person(text: str, shown: str) -> None:
    assert masked_id(text) == shown


def test_a_key_that_ends_in_a_member_is_cut_there() -> None:
    """Also where the member is no number: a user id, or a short address."""
    assert masked_key("cursors", "acme%2Fc-1/ana") == "acme%2Fc-1/***"
    assert masked_key("member_addresses", "c-1/internal/carla-phone") == "c-1/internal/***"
    assert masked_key("sequences", "acme/c-1") == "acme/c-1"
    assert masked_key("bindings", f"whatsapp:1:{PERSON}") == "whatsapp:1:***"


# Tables whose keys name nobody, or a person only in a form that `masked_id` knows.
KEYS_OF_NOBODY = {
    *(
        "awaiting",
        "bindings",
        "conversations",
        "held",
        "message_states",
        "messages",
        "outstanding",
        "plans",
        "seen",
        "sequences",
    ),
    *("stalled", "timelines", "waiting"),
    # channel:account:address, perhaps with a tenant before it and a message behind it
    *("answerable", "held_inbound", "orphans", "received", "suppressed", "threads", "windows"),
}


def test_the_key_of_every_table_was_looked_at() -> None:
    """A new table: does its key hold a user id or an address? Then PARTS_SHOWN says where it begins."""
    known = {name for app in APPS for name in tables(app)}
    assert known - KEYS_OF_NOBODY - PARTS_SHOWN.keys() == set()
    assert (KEYS_OF_NOBODY | PARTS_SHOWN.keys()) - known == set()
