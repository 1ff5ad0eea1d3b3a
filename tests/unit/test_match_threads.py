"""Stage match finds the conversation of what a person wrote: by what it answers, by the latest conversation, or the person's own one."""

from typing import Any, NamedTuple

import pytest

from pipelines.engine.stage import Decision, Record
from pipelines.match import Match, State
from pipelines.match_threads import ThreadLimits
from schemas import codec
from schemas.content import Content
from schemas.ids import inbound_conversation_id, inbound_message_id, shown_id
from schemas.partitions import home_partition
from schemas.records import Direction, InboundMessage, Message, Window
from tables import threads
from tests.support.builders import (
    HERE,
    NOW,
    PARTITIONS,
    Desk,
    binding,
    conversation_at_home,
    decoded,
    inbound_message,
    raw,
    receipt,
    record,
    refused,
)

HOUR = 3_600_000
WAIT = 5000
WINDOW = 72 * HOUR
LIMITS = ThreadLimits(window_ms=WINDOW, wait_ms=WAIT, dedupe_ms=7 * 24 * HOUR, service_windows={"whatsapp": 24 * HOUR})
THERE = conversation_at_home(2, number=1)
PERSON = b"whatsapp:acc-1:15550001"
OWN = "whatsapp:acc-1:15550001"


def a_match() -> Match:
    return Match(partitions=PARTITIONS, binding_ms=7 * 24 * HOUR, orphan_ms=HOUR, threads=LIMITS)


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_match(), partition=1)


def sent(provider_message_id: str = "wamid-1", **changes: Any) -> Record:
    """The binding of a message of ours, as it arrives under the key of its recipient."""
    fields: dict[str, Any] = {"address": "15550001", "message_id": f"msg-of-{provider_message_id}"}
    made = binding(provider_message_id, f"dlv-of-{provider_message_id}", **(fields | changes))
    return record("bindings", made, key=f"{made.channel}:{made.account}:{made.address}".encode(), partition=1)


def wrote(provider_message_id: str = "in-1", *, reply_to: str | None = None, **changes: Any) -> Record:
    content = Content(reply_to=reply_to) if reply_to else None
    made = inbound_message(provider_message_id, **({"content": content} | changes))
    return record("inbound", made, key=f"{made.channel}:{made.account}:{made.address}".encode(), partition=1)


def found(decision: Decision) -> list[Message]:
    return decoded(decision.outputs, "conversation-inbound", Message)


def windows(decision: Decision) -> list[Window]:
    return decoded(decision.outputs, "windows", Window)


# --- which conversation -------------------------------------------------------------------------------------------------


def test_a_reply_goes_to_the_conversation_of_what_it_answers(desk: Desk[State]) -> None:
    desk.turn([sent("w-1"), sent("w-2", conversation_id=THERE, home_partition=2, bound_at=NOW + 1)])
    decision = desk.turn([wrote(reply_to="w-1")])
    (message,) = found(decision)
    assert (message.conversation_id, message.direction, message.sender) == (HERE, Direction.INBOUND, "15550001")
    assert message.metadata == {
        "channel": "whatsapp",
        "account": "acc-1",
        "provider_message_id": "in-1",
        "at": str(NOW - 100),
        "reply_to_message_id": "msg-of-w-1",
    }
    assert message.content == Content(reply_to="w-1"), "the provider's id stays where it was"
    assert (message.message_id, message.requested_at) == (inbound_message_id("whatsapp", "acc-1", "in-1"), NOW)
    (output,) = (each for each in decision.outputs if each.topic == "conversation-inbound")
    assert (output.key, output.partition) == (HERE.encode(), 0)
    assert decision.counts["found_by_reply"] == 1


def test_what_answers_nothing_goes_to_the_latest_conversation(desk: Desk[State]) -> None:
    desk.turn([sent("w-1", bound_at=NOW - 2), sent("w-2", conversation_id=THERE, home_partition=2, bound_at=NOW - 1)])
    decision = desk.turn([wrote()])
    assert [(each.conversation_id, dict(each.metadata).get("reply_to_message_id")) for each in found(decision)] == [
        (THERE, None)
    ]
    assert decision.counts["found_by_latest"] == 1


def test_an_answer_makes_its_conversation_the_latest(desk: Desk[State]) -> None:
    desk.turn([sent("w-1", bound_at=NOW - 2), sent("w-2", conversation_id=THERE, home_partition=2, bound_at=NOW - 1)])
    answers = [wrote("in-1", reply_to="w-1"), wrote("in-2")]
    assert [each.conversation_id for each in found(desk.turn(answers))] == [HERE, HERE]


def test_a_person_without_a_conversation_gets_their_own_one(desk: Desk[State]) -> None:
    decision = desk.turn([wrote()])
    (message,) = found(decision)
    own = inbound_conversation_id("whatsapp", "acc-1", "15550001")
    assert message.conversation_id == own == OWN
    assert decision.outputs[0].partition == home_partition(own, PARTITIONS)
    assert decision.counts["own_conversation"] == 1


def test_a_conversation_is_the_latest_for_the_window_and_a_little_longer(desk: Desk[State]) -> None:
    """The time in the row may be an eighth of the window behind, so the window is between one and one eighth more."""
    desk.turn([sent()])
    late = NOW + WINDOW
    assert [each.conversation_id for each in found(desk.decide([wrote(received_at=late)], now=late))] == [HERE]
    desk.reopen()
    later = NOW + WINDOW + WINDOW // 8
    assert [each.conversation_id for each in found(desk.turn([wrote(received_at=later)], now=later))] == [OWN]


def test_a_person_may_answer_their_own_message(desk: Desk[State]) -> None:
    desk.turn([sent("w-1", bound_at=NOW - 2)])
    desk.turn([wrote("in-1")])
    desk.turn([sent("w-2", conversation_id=THERE, home_partition=2, bound_at=NOW + 1)], now=NOW + 1)
    (message,) = found(desk.turn([wrote("in-2", reply_to="in-1")], now=NOW + 2))
    assert message.conversation_id == HERE
    assert message.metadata["reply_to_message_id"] == inbound_message_id("whatsapp", "acc-1", "in-1")


def test_a_client_of_the_internal_channel_answers_a_delivery(desk: Desk[State]) -> None:
    shown = shown_id("dlv-7", "default", "ana")
    ours = {"channel": "internal", "account": "app", "address": "ana"}
    desk.turn([sent(shown, message_id="m-7", **ours)])
    decision = desk.turn([wrote("1", reply_to="dlv-7", **ours)])
    (message,) = found(decision)
    assert (message.conversation_id, message.metadata["reply_to_message_id"]) == (HERE, "m-7")
    assert not windows(decision), "no window on this channel"


def test_two_clients_with_the_same_id_in_one_conversation_wrote_two_messages(desk: Desk[State]) -> None:
    people = [{"channel": "internal", "account": "app", "address": name} for name in ("ana", "bob")]
    desk.turn([sent(f"shown-{n}", **person) for n, person in enumerate(people)])
    messages = found(desk.turn([wrote("1", **person) for person in people]))
    assert [each.conversation_id for each in messages] == [HERE, HERE]
    assert len({each.message_id for each in messages}) == 2


# --- tenants and accounts -----------------------------------------------------------------------------------------------


class Owned(NamedTuple):
    of_account: str  # the tenant of the account
    of_message: str  # the tenant of the answered message
    becomes: tuple[str, str]  # tenant and conversation of the answer
    counted: str


OWNERS = {
    "a shared account takes the tenant of the answered message": Owned("default", "t", ("t", HERE), "found_by_reply"),
    "the same tenant": Owned("t", "t", ("t", HERE), "found_by_reply"),
    "an id of another tenant is not looked at": Owned("acme", "t", ("acme", OWN), "reply_to_other_tenant"),
    "nor is one of all tenants": Owned("acme", "default", ("acme", OWN), "reply_to_other_tenant"),
}


@pytest.mark.parametrize("case", OWNERS.values(), ids=OWNERS)
def test_the_tenant_of_an_answer(case: Owned, desk: Desk[State]) -> None:
    desk.turn([sent("w-1", tenant_id=case.of_message)])
    decision = desk.turn([wrote(reply_to="w-1", tenant_id=case.of_account)])
    (message,) = found(decision)
    assert (message.tenant_id, message.conversation_id) == case.becomes
    assert decision.counts[case.counted] == 1


def test_the_latest_conversation_of_another_tenant_does_not_count(desk: Desk[State]) -> None:
    desk.turn([sent("w-1", tenant_id="t")])
    assert [(each.tenant_id, each.conversation_id) for each in found(desk.turn([wrote()]))] == [("default", OWN)]


def test_an_id_of_another_account_answers_nothing_here(desk: Desk[State]) -> None:
    desk.turn([sent("w-1")])
    desk.turn([wrote(reply_to="w-1", account="acc-2")])
    decision = desk.turn(now=NOW + WAIT)
    assert [each.conversation_id for each in found(decision)] == ["whatsapp:acc-2:15550001"]
    assert decision.counts["reply_not_found"] == 1


def test_people_of_two_tenants_with_one_address_are_two(desk: Desk[State]) -> None:
    """Tenants of the internal channel name their people themselves."""
    both = [wrote("1", channel="internal", account="app", address="ana", tenant_id=each) for each in ("acme", "beta")]
    assert [each.tenant_id for each in found(desk.turn([*both, *both]))] == ["acme", "beta"]


# --- once, and in order -------------------------------------------------------------------------------------------------


def test_a_repeated_webhook_is_one_message(desk: Desk[State]) -> None:
    first = desk.turn([wrote(), wrote()])
    assert len(found(first)) == 1
    desk.restart(a_match())
    again = desk.turn([wrote(received_at=NOW + 7000)], now=NOW + 7000)
    assert (found(again), again.counts) == ([], {"duplicate": 1})


def test_a_reply_waits_for_its_binding_and_later_messages_wait_behind_it(desk: Desk[State]) -> None:
    decision = desk.turn([wrote("in-1", reply_to="w-1"), wrote("in-2"), wrote("in-1", reply_to="w-1"), wrote("in-2")])
    assert decision.counts == {"reply_waits": 1, "waits_behind_reply": 1, "duplicate": 2}
    assert found(decision) == []
    assert len(found(desk.turn([wrote("in-9", address="15550002")]))) == 1, "another person does not wait"
    desk.restart(a_match())
    assert desk.due() == NOW + WAIT
    arrived = desk.turn([sent("w-1")], now=NOW + 100)
    assert [(each.metadata["provider_message_id"], each.conversation_id) for each in found(arrived)] == [
        ("in-1", HERE),
        ("in-2", HERE),
    ]
    assert not desk.changelog["held_inbound"]
    assert [each.conversation_id for each in found(desk.turn([wrote("in-3")], now=NOW + 200))] == [HERE]


def test_a_binding_of_the_same_turn_is_in_time(desk: Desk[State]) -> None:
    (message,) = found(desk.turn([wrote(reply_to="w-1"), sent("w-1")]))
    assert message.conversation_id == HERE


def test_a_reply_to_what_we_do_not_know_waits_no_longer_than_allowed(desk: Desk[State]) -> None:
    desk.turn([wrote("in-1", reply_to="unknown"), wrote("in-2", reply_to="unknown too")])
    assert found(desk.turn(now=NOW + WAIT - 1)) == []
    decision = desk.turn(now=NOW + WAIT)
    assert [(each.conversation_id, each.metadata["provider_message_id"]) for each in found(decision)] == [
        (OWN, "in-1"),
        (OWN, "in-2"),
    ]
    assert decision.counts["reply_not_found"] == 2


def test_a_person_with_too_many_waiting_messages_waits_no_longer(
    desk: Desk[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.match_queues.MOST_HELD_OF_A_PERSON", 3)
    decision = desk.turn([wrote("in-0", reply_to="unknown"), *(wrote(f"in-{n}") for n in range(1, 5))])
    assert [each.metadata["provider_message_id"] for each in found(decision)] == [f"in-{n}" for n in range(5)]
    assert decision.counts["reply_not_awaited"] == 1


def test_a_partition_with_too_many_waiting_messages_lets_no_more_wait(
    desk: Desk[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.match_queues.MOST_HELD_INBOUND", 2)
    desk.turn([wrote("a-1", reply_to="unknown"), wrote("b-1", reply_to="unknown", address="15550002")])
    decision = desk.turn([wrote("b-2", address="15550002"), wrote("c-1", reply_to="unknown", address="15550003")])
    assert [each.metadata["provider_message_id"] for each in found(decision)] == ["b-1", "b-2"]
    assert len(desk.changelog["held_inbound"]) == 2
    assert [each.metadata["provider_message_id"] for each in found(desk.turn(now=NOW + WAIT))] == ["a-1", "c-1"]
    assert desk.state.threads.queues.next_due() is None


# --- service windows ----------------------------------------------------------------------------------------------------


def test_what_a_person_writes_opens_the_window_wherever_they_have_a_conversation(desk: Desk[State]) -> None:
    elsewhere = conversation_at_home(2, number=2)
    desk.turn(
        [
            sent("w-1"),
            sent("w-2", conversation_id=THERE, home_partition=2, bound_at=NOW + 1),
            sent("w-3", conversation_id=elsewhere, home_partition=2, tenant_id="t", bound_at=NOW + 2),
        ]
    )
    opened = windows(desk.turn([wrote(provider_at=NOW - 100)]))
    assert sorted(each.home_partition for each in opened) == [0, 2], "one for each partition"
    assert {(each.address, each.opened_at, each.closes_at) for each in opened} == {
        ("15550001", NOW - 100, NOW - 100 + 24 * HOUR)
    }


def test_an_earlier_message_that_comes_late_does_not_move_the_window(desk: Desk[State]) -> None:
    desk.turn([wrote("in-2", provider_at=NOW - 100)])
    assert windows(desk.turn([wrote("in-1", provider_at=NOW - 200)])) == []


def test_a_window_that_has_closed_already_is_not_published(desk: Desk[State]) -> None:
    assert windows(desk.turn([wrote(provider_at=NOW - 24 * HOUR)])) == []


def test_a_new_conversation_learns_of_an_open_window(desk: Desk[State]) -> None:
    desk.turn([wrote()])
    (published,) = windows(desk.turn([sent("w-1", conversation_id=THERE, home_partition=2)], now=NOW + HOUR))
    assert (published.conversation_id, published.home_partition, published.closes_at) == (
        THERE,
        2,
        NOW - 100 + 24 * HOUR,
    )
    assert windows(desk.turn([sent("w-2", conversation_id=THERE, home_partition=2)], now=NOW + HOUR)) == []
    late = NOW + 24 * HOUR
    elsewhere = conversation_at_home(3)
    assert windows(desk.turn([sent("w-3", conversation_id=elsewhere, home_partition=3)], now=late)) == []


WRONG_TIMES = {
    "next year": NOW + 365 * 24 * HOUR,
    "1970": 0,
    "seconds in place of milliseconds": NOW // 1000,
}


@pytest.mark.parametrize("provider_at", WRONG_TIMES.values(), ids=WRONG_TIMES)
def test_a_time_that_cannot_be_right_is_that_of_arrival_and_counted(provider_at: int, desk: Desk[State]) -> None:
    decision = desk.turn([wrote(provider_at=provider_at)])
    assert decision.counts["implausible_time"] == 1
    assert [each.opened_at for each in windows(decision)] == [NOW]
    assert len(found(decision)) == 1


# --- rows ---------------------------------------------------------------------------------------------------------------


def test_a_row_is_not_written_for_each_message(desk: Desk[State]) -> None:
    desk.turn([sent("w-1")])
    before = desk.changelog["threads"][PERSON]
    desk.turn([sent("w-2", bound_at=NOW + WINDOW // 8 - 1)], now=NOW + WINDOW // 8)
    assert desk.changelog["threads"][PERSON] == before
    desk.turn([sent("w-3", bound_at=NOW + WINDOW // 8)], now=NOW + WINDOW // 8)
    assert desk.changelog["threads"][PERSON] != before


def test_a_persons_conversations_are_bounded_for_each_tenant(desk: Desk[State]) -> None:
    many = [sent(f"w-{n}", conversation_id=f"c-{n}", bound_at=NOW - 100 + n, tenant_id="t") for n in range(30)]
    desk.turn([sent("w-a", bound_at=NOW - 200), *many])
    row: threads.KnownThreads = desk.rows("threads")[PERSON]
    assert [each.conversation_id for each in row.conversations] == [*(f"c-{n}" for n in range(29, 13, -1)), HERE]
    assert row.conversations[0] == threads.KnownConversation("t", "c-29", 0, NOW - 71), "read back as it was"


def test_a_binding_from_the_future_is_the_latest_only_until_the_next_message(desk: Desk[State]) -> None:
    desk.turn([sent("w-1", bound_at=NOW * 2)])
    later = sent("w-2", conversation_id=THERE, home_partition=2, bound_at=NOW + 1)
    desk.turn([later], now=NOW + 1)
    (message,) = found(desk.turn([wrote(received_at=NOW + 2)], now=NOW + 2))
    assert message.conversation_id == THERE


def test_everything_is_forgotten_in_time(desk: Desk[State]) -> None:
    desk.turn([sent(), wrote()])
    turns = 0
    while (due := desk.due()) is not None:
        desk.turn(now=due)
        turns += 1
        assert turns < 20
    assert not any(desk.changelog.values())


# --- what does not belong here ------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused_and_the_rest_is_taken(desk: Desk[State]) -> None:
    odd = [raw("inbound", b"junk", partition=1), record("inbound", receipt(), partition=1)]
    decision = desk.turn([*odd, wrote()])
    assert refused(decision) == ["not_avro", "unexpected_record"]
    assert "a Receipt where a InboundMessage belongs" in decision.refusals[1].detail
    assert len(found(decision)) == 1


def test_a_person_is_one_key(desk: Desk[State]) -> None:
    """A colon in an account or in an address does not make two people one."""
    for account, address in (("a:b", "c"), ("a", "b:c")):
        desk.turn([wrote("in-1", account=account, address=address)])
    assert len(desk.changelog["threads"]) == 2
    assert codec.decode(wrote().value, InboundMessage).address == "15550001"
