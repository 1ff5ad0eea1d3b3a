"""Stage match: words and preferences of people become suppressions, in any order, and a word is confirmed at most once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Decision, Output, Record
from pipelines.match import Match, State
from pipelines.match_opt_out import LIFTED_MS, WORD_KINDS, OptOut
from pipelines.suppressions import Suppressed, suppression_in
from schemas import codec
from schemas.keys import person_key, suppression_key
from schemas.opt_out_policies import policies_in
from schemas.records import Choice, Message, Suppression
from tests.support.builders import (
    NOW,
    Desk,
    decoded,
    inbound_message,
    preference,
    raw,
    record,
    refused,
    suppression,
)

DAY_MS = 86_400_000
WORDS = {"*": {"confirmations": {"pt": {"stop": "Feito.", "start": "Bem-vindo."}}}}
KEY = suppression_key("default", "whatsapp", "acc-1", "15550001")


def a_match(wanted: Any = None) -> Match:
    policies = policies_in("" if wanted is None else json.dumps(wanted))
    opt_out = OptOut(policies, {"telegram": lambda address: address.startswith("-")})
    return Match(partitions=4, binding_ms=DAY_MS, orphan_ms=DAY_MS, opt_out=opt_out)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_match(), partition=2)


def wrote(text: str = "STOP", number: int = 1, seconds: int = 0, **changes: Any) -> Record:
    """What a person wrote; it reached us `seconds` after NOW."""
    at = NOW + seconds * 1000
    content = inbound_message(
        f"wamid.in-{number}", text=text, **({"provider_at": at, "received_at": at + 400} | changes)
    )
    return record("inbound", content, key=person_key(content.channel, content.account, content.address).encode())


def said(reason: str = "blocked", choice: Choice = Choice.STOP, seconds: int = 0, **changes: Any) -> Record:
    at = NOW + seconds * 1000
    fields = {"occurred_at": at, "observed_at": at + 400} | changes
    content = preference(event_id=f"{reason}-{seconds}", reason=reason, choice=choice, **fields)
    return record("inbound", content, key=person_key(content.channel, content.account, content.address).encode())


def own(decision: Decision) -> list[Output]:
    """The outputs of this module: without the inbound messages themselves, their windows and refusals."""
    return [output for output in decision.outputs if output.topic in ("messages", "suppressions")]


def published(decision: Decision) -> list[tuple[bool, str]]:
    return [(each.suppressed, each.reason) for each in decoded(decision.outputs, "suppressions", Suppression)]


class Mirrored(dict[bytes, Suppressed]):
    """What stage send sees of the topic."""

    def take(self, decision: Decision) -> None:
        for output in decision.outputs:
            if output.topic == "suppressions":
                assert output.partition is None, "by its key: the topic has another number of partitions"
                found = None if output.value is None else suppression_in(output.key, output.value)
                self.pop(output.key, None)
                if found is not None:
                    self[output.key] = found


def test_a_word_suppresses_and_another_lifts_it(desk: Desk[State]) -> None:
    stopped = desk.turn([wrote("Sair!")])
    (found,) = decoded(stopped.outputs, "suppressions", Suppression)
    assert found == suppression(changed_at=NOW + 400)
    assert [output.key for output in own(stopped)] == [KEY.encode()]
    assert (stopped.counts["stop_word"], stopped.counts["suppressed"]) == (1, 1)
    lifted = desk.turn([wrote("VOLTAR", 2, 10)])
    assert published(lifted) == [(False, "start_word")]
    assert (lifted.counts["start_word"], lifted.counts["lifted"]) == (1, 1)


def test_a_text_with_a_word_in_it_changes_nothing(desk: Desk[State]) -> None:
    assert own(desk.turn([wrote("please stop the car"), wrote("oi", 2), wrote("start", 3)])) == []
    assert own(desk.turn([wrote("stop", 4, kind="image"), wrote("stop", 5, kind="reaction")])) == []


@pytest.mark.parametrize("kind", sorted(WORD_KINDS))
def test_the_title_of_a_button_is_a_word_too(kind: str, desk: Desk[State]) -> None:
    assert published(desk.turn([wrote("Stop", kind=kind)])) == [(True, "stop_word")]


def test_in_a_group_nobody_speaks_for_all_but_the_bot_can_be_shut_out(desk: Desk[State]) -> None:
    group: dict[str, Any] = {"channel": "telegram", "account": "4242", "address": "-1005"}
    assert own(desk.turn([wrote("stop", **group)])) == []
    assert published(desk.turn([said("blocked", **group)])) == [(True, "blocked")]
    assert published(desk.turn([said("unblocked", Choice.RESUME, 9, **group)])) == [(False, "unblocked")]


def test_a_restart_keeps_what_was_said(desk: Desk[State]) -> None:
    desk.turn([wrote("STOP", 1, 10)])
    desk.restart(a_match())
    assert own(desk.turn([wrote("START", 2, 5), wrote("STOP", 1, 10)])) == [], "older, and the same again"
    assert published(desk.turn([wrote("START", 3, 20)])) == [(False, "start_word")]


def test_who_writes_can_be_reached_again_but_has_not_taken_a_stop_back(desk: Desk[State]) -> None:
    desk.turn([said("blocked")])
    assert published(desk.turn([wrote("oi", 1, 5)])) == [(False, "wrote")]
    desk.turn([said("not_receiving", seconds=10)])
    assert published(desk.turn([wrote("STOP", 2, 15)])) == [(True, "stop_word")]
    assert own(desk.turn([wrote("oi", 3, 20)])) == []


def test_what_a_person_wrote_before_a_block_does_not_undo_it(desk: Desk[State]) -> None:
    desk.turn([said("blocked", seconds=10)])
    assert own(desk.turn([wrote("oi", 1, 5)])) == []


def test_a_time_in_the_future_counts_from_when_we_learned_of_it(desk: Desk[State]) -> None:
    desk.turn([wrote("STOP", 1, provider_at=NOW + 365 * DAY_MS, received_at=NOW)])
    assert published(desk.turn([wrote("START", 2, 1)])) == [(False, "start_word")]


def test_the_same_second_of_the_provider_is_not_before_our_own_observation(desk: Desk[State]) -> None:
    """The provider's second is cut off: an unblock within it is later than our call that was refused in it."""
    desk.turn([said("blocked", occurred_at=NOW + 300, observed_at=NOW + 300)])
    unblocked = said("unblocked", Choice.RESUME, occurred_at=NOW - NOW % 1000, observed_at=NOW + 5000)
    assert published(desk.turn([unblocked])) == [(False, "unblocked")]


def test_each_account_and_each_tenant_of_an_internal_account_is_apart(desk: Desk[State]) -> None:
    people: list[dict[str, Any]] = [
        {},
        {"account": "acc-2"},
        {"tenant_id": "acme"},
        {"address": "15550002"},
        {"channel": "telegram"},
    ]
    decision = desk.turn([wrote("STOP", n, **changes) for n, changes in enumerate(people)])
    assert len({output.key for output in own(decision)}) == len(people)


def test_every_form_of_an_address_is_one_person(desk: Desk[State]) -> None:
    desk.turn([wrote("STOP", address="553187654321")])
    assert published(desk.turn([wrote("START", 2, 5, address="5531987654321")])) == [(False, "start_word")]


def test_a_tenant_chooses_what_counts() -> None:
    desk = Desk(a_match({"acme": {"reasons": ["stop_word"]}, "beta": "off"}))
    unused = desk.turn([said("user_preferences", tenant_id="acme"), said("blocked", tenant_id="beta")])
    assert (unused.outputs, unused.counts) == ([], {"preference_not_used": 2})
    assert own(desk.turn([wrote("STOP", tenant_id="beta")])) == []
    assert published(desk.turn([wrote("STOP", tenant_id="acme")])) == [(True, "stop_word")]


def test_an_unknown_reason_suppresses_nothing(desk: Desk[State]) -> None:
    assert own(desk.turn([said("of a later release")])) == []


# --- confirmations ------------------------------------------------------------------------------------------------------


def test_a_word_is_confirmed_once_and_the_confirmation_passes() -> None:
    desk = Desk(a_match(WORDS))
    decision = desk.turn([wrote("SAIR")])
    (message,) = decoded(decision.outputs, "messages", Message)
    (found,) = decoded(decision.outputs, "suppressions", Suppression)
    assert (message.text, message.kind, message.tenant_id) == ("Feito.", "text", "default")
    assert found.confirmation_id == message.message_id
    (recipient,) = message.recipients
    assert (recipient.channel, recipient.account, recipient.address) == ("whatsapp", "acc-1", "15550001")
    again = desk.turn([wrote("STOP", 2, 5)])
    assert decoded(again.outputs, "messages", Message) == [], "it changes nothing: no answer"
    assert decoded(again.outputs, "suppressions", Suppression)[0].confirmation_id == message.message_id
    back = desk.turn([wrote("VOLTAR", 3, 10), wrote("START", 4, 11)])
    assert [each.text for each in decoded(back.outputs, "messages", Message)] == ["Bem-vindo."]
    assert own(desk.turn([wrote("START", 5, 12)])) == []


def test_a_repeated_word_is_the_same_message() -> None:
    first, second = (Desk(a_match(WORDS)).turn([wrote("SAIR", received_at=NOW + later)]) for later in (100, 700))
    ids = [decoded(each.outputs, "messages", Message)[0].message_id for each in (first, second)]
    assert ids[0] == ids[1]


def test_who_was_not_stopped_gets_no_welcome() -> None:
    assert own(Desk(a_match(WORDS)).turn([wrote("START")])) == []


def test_without_a_text_nothing_is_confirmed(desk: Desk[State]) -> None:
    assert decoded(desk.turn([wrote("STOP")]).outputs, "messages", Message) == []


# --- the end of a row ---------------------------------------------------------------------------------------------------


def test_a_lifted_row_is_forgotten_and_a_suppression_never(desk: Desk[State]) -> None:
    desk.turn([wrote("STOP", 1), wrote("STOP", 2, address="15550002"), wrote("START", 3, 5)], now=NOW)
    due = desk.due()
    assert due is not None
    assert due <= NOW + LIFTED_MS + 60_000
    forgotten = desk.turn(now=NOW + LIFTED_MS + 120_000)
    assert [(output.key, output.value) for output in forgotten.outputs] == [(KEY.encode(), None)]
    assert list(desk.changelog["suppressed"]) == [suppression_key("default", "whatsapp", "acc-1", "15550002").encode()]


def test_what_does_not_belong_on_the_topic_is_refused(desk: Desk[State]) -> None:
    receipts = codec.encode(suppression())
    decision = desk.turn([raw("inbound", receipts), raw("inbound", b"junk"), wrote()])
    assert refused(decision) == ["unexpected_record", "not_avro"]
    assert published(decision) == [(True, "stop_word")]


TEXTS = ("STOP", "start", "sair")
EVENTS = st.one_of(
    st.tuples(st.sampled_from(TEXTS), st.integers(0, 20)).map(
        lambda each: wrote(each[0], 100 * TEXTS.index(each[0]) + each[1], each[1])
    ),
    st.builds(
        said,
        st.sampled_from(["blocked", "not_receiving", "user_preferences"]),
        st.just(Choice.STOP),
        st.integers(0, 20),
    ),
    st.builds(said, st.sampled_from(["unblocked", "user_preferences"]), st.just(Choice.RESUME), st.integers(0, 20)),
)


@given(st.lists(EVENTS, max_size=10), st.data())
def test_any_order_repetition_and_restart_ends_in_the_same_suppression(
    events: list[Record], data: st.DataObject
) -> None:
    """Words and preferences alone; that a person wrote is only used while something prevents messages."""
    ends = []
    for _ in range(2):
        order = data.draw(st.permutations(events + events[: data.draw(st.integers(0, len(events)))]))
        desk, mirrored = Desk(a_match()), Mirrored()
        for each in order:
            mirrored.take(desk.turn([each]))
            if data.draw(st.booleans()):
                desk.restart(a_match())
        row = desk.rows("suppressed").get(KEY.encode())
        ends.append(row and (row.wish, row.wish_at, row.wish_stops))
        assert (KEY.encode() in mirrored) is (row is not None and row.is_suppressed)
        assert row is None or not row.is_suppressed or mirrored[KEY.encode()].reason == row.reason
    assert ends[0] == ends[1]
