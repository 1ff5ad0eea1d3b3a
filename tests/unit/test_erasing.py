"""What the stages of core forget of an erased person: after an erasure, no row that a key finds has the address or the text; the rows of
others are as before; the same record again changes nothing; statuses go on."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import erasing
from pipelines.engine.poison import TooLarge
from pipelines.engine.stage import Decision, Record, Result
from pipelines.match import Match
from pipelines.match_threads import ThreadLimits
from pipelines.route import Route
from pipelines.send import Send
from pipelines.send_state import SendLimits
from pipelines.track import Track
from schemas import codec
from schemas.content import Content
from schemas.outcomes import Accepted, RetryLater, Unknown
from schemas.records import (
    Address,
    Binding,
    Cause,
    Conversation,
    Cursor,
    DeliveryState,
    ReceiptStatus,
    Status,
    StatusUpdate,
)
from sinks.erased_people import erased_name, person_digest
from tables.cursors import cursor_key
from tables.outstanding import Phase
from tests.support.builders import (
    HERE,
    NOW,
    OBSERVED,
    Desk,
    binding,
    conversation,
    cursor_report,
    decoded,
    delivery,
    erasure,
    examples,
    inbound_message,
    numbered,
    preference,
    receipt,
    record,
    ref,
    refused,
    sequenced,
    update,
    window,
)
from tests.support.counting_provider import Provider

HOUR = 3_600_000
ADDRESS, TEXT = "15550001", "meet me at noon"
NAME = erased_name(person_digest("default", "", "ana"))
OTHER = "15550002"
SENT, READ, FAILED = Status.SENT, Status.READ, Status.FAILED
ANA_AND_BOB = (("ana", ADDRESS), ("bob", OTHER))


def a_track() -> Track:
    return Track(state_ms=HOUR, observed=OBSERVED)


def a_send() -> Send:
    limits = SendLimits(concurrency=2, outstanding=100, attempts=3, hold_ms=HOUR)
    return Send(
        connectors={name: Provider(name, policy) for name, policy in (("whatsapp", "hold"), ("telegram", "resend"))},
        limits=limits,
    )


def a_match() -> Match:
    limits = ThreadLimits(window_ms=HOUR, wait_ms=5000, dedupe_ms=HOUR, service_windows={"whatsapp": HOUR})
    return Match(partitions=1, binding_ms=HOUR, orphan_ms=HOUR, threads=limits)


def rows_with(desk: Desk[Any], *words: str) -> list[tuple[str, bytes]]:
    """Table and key of each row whose key or bytes contain one of the words."""
    return sorted(_rows(desk).keys() - rows_without(desk, *words).keys())


def rows_without(desk: Desk[Any], *words: str) -> dict[tuple[str, bytes], bytes]:
    """Table and key -> bytes, of the other rows."""
    coded = [word.encode() for word in words]
    found = _rows(desk)
    return {
        (table, key): value for (table, key), value in found.items() if not any(w in key or w in value for w in coded)
    }


def _rows(desk: Desk[Any]) -> dict[tuple[str, bytes], bytes]:
    return {(table, key): value for table, rows in desk.changelog.items() for key, value in rows.items()}


def erase(desk: Desk[Any], now: int = NOW + 1000, **changes: Any) -> Decision:
    """An erasure; checks that the same record again changes nothing."""
    sent = [record("erasures", erasure(**changes))]
    decision = desk.turn(sent, now=now)
    assert not decision.refusals
    before = {table: dict(rows) for table, rows in desk.changelog.items()}
    again = desk.turn(sent, now=now)
    assert not again.outputs
    assert desk.changelog == before
    return decision


# --- track ------------------------------------------------------------------------------------------------------------------


def log(seq: int, *people: tuple[str, str]) -> Record:
    """A message to these people; the delivery of person P is `P-SEQ`."""
    refs = (ref(f"{user}-{seq}", recipient=user, address=address) for user, address in people)
    return record("conversation-log", sequenced(*refs, seq=seq, message_id=f"m{seq}", text=TEXT))


def happened(user: str, address: str, seq: int, status: Status) -> Record:
    fields: dict[str, Any] = {"delivery_id": f"{user}-{seq}", "status": status, "reason_code": "x"}
    fields |= {"provider_message_id": f"{address}:{seq}", "reason": f"{address} is busy"}
    return record("status-updates", update(f"{address}:{seq}:{status}", **fields))


@given(
    st.lists(
        st.tuples(st.sampled_from(ANA_AND_BOB), st.integers(1, 3), st.sampled_from([SENT, READ, FAILED])), max_size=8
    ),
    st.integers(0, 3),
)
@examples(25)
def test_track_forgets_the_person_whatever_came_before(
    events: list[tuple[tuple[str, str], int, Status]], logged: int
) -> None:
    """Also updates that came before their delivery."""
    desk = Desk(a_track())
    desk.turn([log(seq, *ANA_AND_BOB) for seq in range(1, logged + 1)])
    desk.turn(numbered([happened(*of, seq, status) for of, seq, status in events]))
    others = rows_without(desk, ADDRESS, "ana")
    erase(desk, delivery_ids=tuple(f"ana-{seq}" for seq in range(1, 4)))
    assert rows_with(desk, ADDRESS) == rows_with(desk, '"ana"', "/ana") == []
    assert others.items() <= rows_without(desk, "nobody").items()


def test_the_status_of_an_erased_delivery_goes_on_without_the_person() -> None:
    desk = Desk(a_track())
    desk.turn([log(1, *ANA_AND_BOB), happened("ana", ADDRESS, 1, SENT)])
    decision = erase(desk, delivery_ids=("ana-1",))
    key = cursor_key("default", HERE, NAME).encode()
    assert [(o.key, o.value is None) for o in decision.outputs] == [
        (cursor_key("default", HERE, "ana").encode(), True),
        (key, False),
    ]
    (moved,) = decoded(decision.outputs[1:], "cursors", Cursor)
    assert (moved.member, moved.newest_seq) == (NAME, 1)
    late = desk.turn([happened("ana", ADDRESS, 1, READ)])
    (state,) = decoded(late.outputs, "delivery-states", DeliveryState)
    assert (state.status, state.version, state.recipient, state.address) == (Status.READ, 3, NAME, NAME)
    assert (state.provider_message_id, state.reason) == (None, None)
    assert ADDRESS.encode() not in b"".join(output.value or b"" for output in late.outputs)
    assert desk.rows("cursors")[key].read == 1
    assert not desk.turn([happened("ana", ADDRESS, 1, READ), happened("ana", ADDRESS, 1, SENT)]).outputs, (
        "both are repeated"
    )


def test_a_second_erasure_in_the_same_conversation_ends_the_newer_cursor() -> None:
    desk = Desk(a_track())
    desk.turn([log(1, *ANA_AND_BOB)])
    erase(desk, delivery_ids=("ana-1",))
    desk.turn([log(2, *ANA_AND_BOB)])
    assert erase(desk, delivery_ids=("ana-2",)).outputs[0].value is None
    assert rows_with(desk, ADDRESS) == []
    assert desk.rows("cursors")[cursor_key("default", HERE, NAME).encode()].made == 1
    assert desk.turn([happened("ana", ADDRESS, 2, READ)]).outputs


def test_another_tenants_deliveries_stay() -> None:
    desk = Desk(a_track())
    desk.turn([log(1, *ANA_AND_BOB)])
    before = {table: dict(rows) for table, rows in desk.changelog.items()}
    assert not erase(desk, tenant_id="acme", delivery_ids=("ana-1",)).outputs
    assert desk.changelog == before


def test_a_clients_report_for_an_erased_address_is_unknown() -> None:
    desk = Desk(a_track())
    desk.turn([record("conversation-log", sequenced(ref(channel="internal", account="app", address="ana-app")))])
    erase(desk, delivery_ids=("dlv-1",), addresses=(Address(channel="internal", address="ana-app", account="app"),))
    decision = desk.turn([record("cursor-reports", cursor_report(address="ana-app"))])
    assert decision.counts == {"report_unknown": 1}


# --- send -------------------------------------------------------------------------------------------------------------------


def to_send(*numbers: int, **changes: Any) -> list[Record]:
    made = [delivery(f"ana-{n}", **({"seq": n, "text": TEXT, "address": ADDRESS} | changes)) for n in numbers]
    return [record(f"deliveries.{each.channel}", each) for each in made]


def ends(decision: Decision) -> list[tuple[str, Status, Cause, str | None]]:
    return [
        (u.delivery_id, u.status, u.cause, u.reason_code)
        for u in decoded(decision.outputs, "status-updates", StatusUpdate)
    ]


def test_what_was_not_sent_ends_as_cancelled_and_a_window_is_forgotten() -> None:
    desk = Desk(a_send())
    asked = desk.turn([*to_send(1, 2), *to_send(3, not_before=NOW + HOUR), record("windows", window())])
    desk.turn(results=[Result(asked.calls[0], RetryLater("slow", "429", after_seconds=60.0))])
    decision = erase(desk, delivery_ids=("ana-1", "ana-2", "ana-3"))
    assert ends(decision) == [(f"ana-{n}", Status.CANCELLED, Cause.REJECTED, "erased") for n in (1, 2, 3)]
    assert not any(desk.changelog.values())
    assert not desk.turn(now=NOW + 2 * HOUR).calls


@pytest.mark.parametrize("channel", ["whatsapp", "telegram"])
@pytest.mark.parametrize("outcome", [Accepted((f"{ADDRESS}:1",)), RetryLater("slow", "429"), Unknown("no answer")])
def test_a_call_in_flight_counts_and_is_never_repeated(channel: str, outcome: Any) -> None:
    desk = Desk(a_send())
    asked = desk.turn(to_send(1, channel=channel, content=Content(reply_to=f"{ADDRESS}:0")))
    assert len(asked.calls) == 1
    assert not erase(desk, delivery_ids=("ana-1",)).outputs
    assert rows_with(desk, ADDRESS, TEXT) == []
    assert [row.phase for row in desk.rows("outstanding").values()] == [Phase.CALLING]
    made = [desk.turn(results=[Result(asked.calls[0], outcome)], now=NOW + 2000)]
    made += [desk.turn(now=NOW + 2000 + turn * HOUR) for turn in range(1, 6)]
    statuses = [each[1] for decision in made for each in ends(decision)]
    assert statuses[-1] in {Status.SENT, Status.EXPIRED}
    assert not any(decision.calls for decision in made)
    assert not desk.rows("outstanding")
    for bound in (each for decision in made for each in decoded(decision.outputs, "bindings", Binding)):
        assert bound.address == NAME


def test_a_call_whose_worker_ended_is_not_repeated_either() -> None:
    desk = Desk(a_send())
    desk.turn(to_send(1, channel="telegram"))
    desk.restart(a_send())
    decision = desk.turn([record("erasures", erasure(delivery_ids=("ana-1",)))])
    made = [decision, *(desk.turn(now=NOW + turn * HOUR) for turn in range(1, 5))]
    assert not any(each.calls for each in made)
    assert not any(desk.changelog.values())


def test_other_lanes_go_on() -> None:
    desk = Desk(a_send())
    desk.turn([*to_send(1), *to_send(2)])
    erase(desk, delivery_ids=("ana-1", "ana-2"))
    decision = desk.turn([record("deliveries.whatsapp", delivery("bob-1", recipient="bob", address=OTHER))])
    assert [call.key for call in decision.calls] == ["bob-1"]


# --- match ------------------------------------------------------------------------------------------------------------------

WHO = (Address(channel="whatsapp", address=ADDRESS, account="acc-1"),)


def of_person(address: str) -> list[Record]:
    """Everything that makes rows of match about a person with this address."""
    bound = [binding(f"{address}:{n}", f"d{n}-{address}", address=address, message_id=f"m{n}") for n in range(3)]
    return [
        *(record("bindings", each) for each in bound),
        *(record("bindings", each, key=f"whatsapp:acc-1:{address}".encode()) for each in bound),
        record("inbound", inbound_message(f"{address}:in-1", address=address, text=TEXT)),
        record(
            "inbound",
            inbound_message(f"{address}:in-2", address=address, text=TEXT, content=Content(reply_to="not yet")),
        ),
        record("inbound", inbound_message(f"{address}:in-3", address=address, text=TEXT)),
        record("inbound", preference(address=address)),
        record("receipts", receipt_of(f"{address}:9"), key=b"k"),
    ]


def receipt_of(provider_message_id: str) -> Any:
    return receipt(provider_message_id, status=ReceiptStatus.READ)


IDS = tuple(f"{ADDRESS}:{n}" for n in (*range(3), 9, "in-1", "in-2", "in-3"))


def test_match_forgets_the_person_and_nobody_else() -> None:
    desk = Desk(a_match())
    desk.turn(numbered([*of_person(ADDRESS), *of_person(OTHER)]))
    others = rows_without(desk, ADDRESS)
    assert {table for table, _ in others} == {each.name for each in Match.tables} - {"orphans"}
    decision = erase(desk, conversation_id="", addresses=WHO, provider_message_ids=IDS)
    assert rows_without(desk, "nobody") == others
    assert [(o.topic, o.value) for o in decision.outputs] == [("suppressions", None)]
    late = desk.turn(now=NOW + 10_000)
    assert len([o for o in late.outputs if o.topic == "conversation-inbound"]) == 2, "those of the other person"


def test_opt_outs_stay_where_the_operator_says_so() -> None:
    desk = Desk(a_match())
    desk.turn(of_person(ADDRESS))
    decision = erase(desk, conversation_id="", addresses=WHO, provider_message_ids=IDS, keep_opt_outs=True)
    assert not decision.outputs
    assert {table for table, _ in rows_with(desk, ADDRESS)} == {"suppressed"}


def test_orphans_of_the_person_go_too() -> None:
    desk = Desk(a_match())
    desk.turn([record("receipts", receipt_of(f"{ADDRESS}:9"), key=b"k")])
    assert refused(desk.turn(now=NOW + 2 * HOUR)) == ["orphan_receipt"]
    assert len(desk.rows("orphans")) == 1
    erase(desk, now=NOW + 2 * HOUR, conversation_id="", addresses=WHO, provider_message_ids=IDS)
    assert not any(desk.changelog.values())


def test_on_a_shared_account_the_other_tenants_conversation_stays() -> None:
    desk = Desk(a_match())
    key = f"whatsapp:acc-1:{ADDRESS}".encode()
    for n, tenant in enumerate(("acme", "shop")):
        made = binding(
            f"{ADDRESS}:{n}", f"d{n}", tenant_id=tenant, conversation_id=f"c-{tenant}", address=ADDRESS, message_id="m"
        )
        desk.turn([record("bindings", made, key=key)])
    erase(desk, tenant_id="acme", conversation_id="", addresses=WHO, provider_message_ids=IDS)
    (threads,) = desk.rows("threads").values()
    assert [each.tenant_id for each in threads.conversations] == ["shop"]
    assert [row.tenant_id for row in desk.rows("answerable").values()] == ["shop"]


def test_a_message_that_came_after_the_erasure_waits_on_and_is_decided() -> None:
    desk = Desk(a_match())
    waits = Content(reply_to="not yet")
    desk.turn([record("inbound", inbound_message("in-1", content=waits))])
    desk.turn([record("inbound", inbound_message("in-2", content=waits, received_at=NOW + 900))], now=NOW + 900)
    erase(desk, conversation_id="", addresses=WHO)
    assert [row.message.provider_message_id for row in desk.rows("held_inbound").values()] == ["in-2"]
    decided = desk.turn(now=NOW + 900 + 5000)
    assert [output.topic for output in decided.outputs][:1] == ["conversation-inbound"]


# --- route ------------------------------------------------------------------------------------------------------------------


def test_route_takes_the_person_out_of_the_members() -> None:
    desk = Desk(Route(partitions=4, dedupe_ms=HOUR, channels={}))
    desk.turn([record("conversations", conversation("ana", "bob"))])
    (made,) = decoded(erase(desk).outputs, "conversations", Conversation)
    assert (made.members, made.updated_at) == (("bob",), NOW + 500)
    assert rows_with(desk, '"ana"') == []
    before = dict(desk.changelog["conversations"])
    desk.turn([record("conversations", made)])
    assert desk.changelog["conversations"] == before, "its own record changes nothing"


# --- bounds -----------------------------------------------------------------------------------------------------------------

STAGES = {
    "route": lambda: Route(partitions=4, dedupe_ms=HOUR, channels={}),
    "match": a_match,
    "send": a_send,
    "track": a_track,
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_turn_looks_at_a_bounded_number_of_rows(stage: Any) -> None:
    """The engine tries again with fewer records and refuses none of them."""
    many, ids = (
        tuple(dataclasses.replace(WHO[0], address=str(n)) for n in range(32)),
        tuple(f"d{n}" for n in range(100)),
    )
    came = numbered(
        [record("erasures", erasure(addresses=many, provider_message_ids=ids, erasure_id=f"e{n}")) for n in range(3)]
    )
    desk = Desk(stage())
    with pytest.raises(TooLarge, match="a turn looks at") as raised:
        desk.decide(came)
    assert raised.value.together
    desk.reopen()
    assert not desk.turn(came[:1]).refusals
    larger = erasure(addresses=many, provider_message_ids=ids * 2, delivery_ids=ids)
    assert not desk.turn([record("erasures", larger)]).refusals, "one record is always taken"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_an_erasure_in_the_wrong_partition_is_refused(stage: Any) -> None:
    decision = Desk(stage()).turn([record("erasures", erasure(home_partition=3))])
    assert refused(decision) == ["wrong_partition"]


def test_the_word_of_a_row_is_the_word_of_the_archive() -> None:
    """The same as stage archive's merge makes (sinks/erased_people.py)."""
    by_address = erased_name(person_digest("default", "whatsapp", ADDRESS))
    assert erasing.name_of(erasure(), "whatsapp", "ana", ADDRESS) == NAME
    assert erasing.name_of(erasure(), "whatsapp", ADDRESS, ADDRESS) == by_address
    assert erasing.name_of(erasure(person=""), "whatsapp", ADDRESS, f"+{ADDRESS}") == by_address
    assert codec.encode(erasure(person=""))
