"""Ids that hold an address of an erased person are replaced, the same one always by the same."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import inbound_conversation_id, inbound_message_id
from schemas.records import Direction
from sinks.erased_ids import beginner, conversation_without, erased_id, without_person
from sinks.erased_people import Erased, erased_name, person_digest
from sinks.staging import MembersRow
from tests.support.builders import NOW, cursor, delivery_state, sequenced
from tests.support.sink_databases import T0

CHAT = "77001"
DIGEST = person_digest("default", "telegram", CHAT)
WORD = erased_name(DIGEST)
ERASED = Erased({("default", DIGEST): NOW})
OWN = inbound_conversation_id("telegram", "4242", CHAT)


@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.text(max_size=40))
def test_replacing_an_id_twice_changes_nothing(tenant: str, delivery: str, text: str) -> None:
    once = erased_id(tenant, delivery, text)
    assert erased_id(tenant, delivery, once) == once
    assert once == text or once.startswith("erased:")


def test_ids_of_attempts_stay() -> None:
    assert erased_id("default", "d1", "d1:2:accepted") == "d1:2:accepted"
    assert erased_id("default", "", "d1:2:accepted").startswith("erased:")


def test_a_conversation_says_who_began_it() -> None:
    assert beginner("default", OWN) == DIGEST
    assert beginner("acme", OWN) != DIGEST
    for other in (
        "c-1",
        "a:b:c",
        "telegram:4242",
        "telegram:4242:",
        inbound_conversation_id("telegram", "4242", "7" * 250),
    ):
        assert beginner("default", other) is None or not other.endswith(CHAT), other
    assert conversation_without(OWN, WORD) == f"telegram:4242:{WORD}"


STATE = delivery_state(
    "telegram:4242:77001:5:read",
    channel="telegram",
    conversation_id=OWN,
    provider_message_id=f"{CHAT}:5",
    recipient=CHAT,
    address=CHAT,
)
WROTE = sequenced(
    conversation_id=OWN,
    sender=CHAT,
    direction=Direction.INBOUND,
    message_id=inbound_message_id("telegram", "4242", f"{CHAT}:5"),
)
SENT = sequenced(conversation_id=OWN, message_id="m-1")
READ = cursor(conversation_id=OWN, member=WORD, changed_at=NOW + 5)
MEMBERS = MembersRow("default", OWN, 0, (), NOW)


@pytest.mark.parametrize("before", [STATE, WROTE, SENT, READ, MEMBERS], ids=lambda each: type(each).__name__)
def test_a_record_of_an_erased_person_has_no_address_in_its_ids(before: Any) -> None:
    after = without_person(before, ERASED)
    assert CHAT not in repr(after)
    assert after.conversation_id == f"telegram:4242:{WORD}"
    assert without_person(after, ERASED) == after


def test_what_came_later_and_what_names_nobody_stays() -> None:
    later = [
        dataclasses.replace(STATE, accepted_at=NOW + 1),
        dataclasses.replace(WROTE, accepted_at=NOW + 1),
        cursor(conversation_id=OWN, member=CHAT, changed_at=NOW + 1),
        delivery_state(accepted_at=T0),
    ]
    for each in later:
        assert without_person(each, ERASED) == each
