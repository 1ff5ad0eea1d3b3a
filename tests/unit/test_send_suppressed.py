"""Stage send: nothing is sent to a person who opted out, whatever waits for them, except the one message that confirms it."""

import dataclasses
from typing import Any

import pytest

from connectors.base import Capabilities
from pipelines.engine.stage import Decision, Record, Result
from pipelines.send import Send
from pipelines.send_state import SendLimits, State
from pipelines.suppressions import SUPPRESSIONS, Suppressed, suppression_in
from schemas import codec
from schemas.accounts import accounts_in
from schemas.keys import person_key, suppression_key
from schemas.outcomes import Accepted, Rejected, RetryLater, Unknown
from schemas.partitions import home_partition
from schemas.records import Cause, Choice, Delivery, Preference, Status, StatusUpdate
from tests.support.builders import NOW, Desk, decoded, delivery, numbered, record, suppression
from tests.support.counting_provider import Provider

DAY_MS = 86_400_000
LIMITS = SendLimits(concurrency=4, outstanding=10, attempts=3, hold_ms=60_000, not_receiving_ms=DAY_MS)
STOPPED = Suppressed("stop_word", NOW - 3_600_000)
ANA = {"account": "acc-1", "address": "15550001"}


class OfTenants(Provider):
    """A channel whose messages name their tenant, as the internal channel's do."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel, "resend")
        self.capabilities: Capabilities = dataclasses.replace(self.capabilities, own_tenants=True)


def a_send() -> Send:
    connectors = {"whatsapp": Provider("whatsapp", "hold"), "internal": OfTenants("internal")}
    return Send(connectors=connectors, limits=LIMITS, accounts=accounts_in("whatsapp:of-acme=acme"))


@pytest.fixture
def desk() -> Desk[State]:
    return Desk(a_send())


def stop(desk: Desk[State], found: Suppressed = STOPPED, tenant: str = "default", **person: str) -> None:
    place = {"channel": "whatsapp"} | ANA | person
    desk.mirrored["suppressions"][suppression_key(tenant, **place).encode()] = found


def start(desk: Desk[State]) -> None:
    desk.mirrored["suppressions"].clear()


def to_send(*deliveries: Delivery) -> list[Record]:
    return numbered([record(f"deliveries.{each.channel}", each) for each in deliveries], start=40)


def ana(delivery_id: str = "dlv-1", **changes: Any) -> Delivery:
    return delivery(delivery_id, **(ANA | changes))


def ended(decision: Decision) -> list[tuple[str, Status, str | None]]:
    updates = decoded(decision.outputs, "status-updates", StatusUpdate)
    return [(each.delivery_id, each.status, each.reason_code) for each in updates]


SUPPRESSED = [("dlv-1", Status.SUPPRESSED, "suppressed")]


def test_a_delivery_to_a_person_who_stopped_ends_and_says_why(desk: Desk[State]) -> None:
    stop(desk)
    decision = desk.turn(to_send(ana(), ana("dlv-2", address="15550002")))
    assert [call.key for call in decision.calls] == ["dlv-2"]
    (update,) = decoded(decision.outputs, "status-updates", StatusUpdate)
    assert (update.status, update.cause, update.reason_code) == (Status.SUPPRESSED, Cause.REJECTED, "suppressed")
    assert update.reason is not None
    assert update.reason.startswith("the person wrote a word that stops messages, at 20")
    assert decision.counts["suppressed"] == 1
    assert list(desk.rows("outstanding")) == [b"dlv-2"]


def test_a_lane_of_suppressed_deliveries_ends_in_one_turn(desk: Desk[State]) -> None:
    stop(desk)
    decision = desk.turn(to_send(*(ana(f"dlv-{n}", seq=n) for n in range(1, 6))))
    assert [each[1] for each in ended(decision)] == [Status.SUPPRESSED] * 5
    assert (desk.rows("outstanding"), desk.due()) == ({}, None)


@pytest.mark.parametrize("kind", ["typing", "mark_read", "template", "image"])
def test_signals_and_every_other_kind_are_suppressed_too(kind: str, desk: Desk[State]) -> None:
    stop(desk)
    assert ended(desk.turn(to_send(ana(kind=kind)))) == SUPPRESSED


def test_a_lifted_suppression_suppresses_nothing(desk: Desk[State]) -> None:
    stop(desk)
    desk.turn(to_send(ana()))
    start(desk)
    assert len(desk.turn(to_send(ana("dlv-2"))).calls) == 1


def test_the_confirmation_passes_and_nothing_else(desk: Desk[State]) -> None:
    stop(desk, STOPPED._replace(confirmation_id="opt-out-1"))
    decision = desk.turn(to_send(ana(message_id="opt-out-1"), ana("dlv-2", message_id="other", seq=2)))
    assert [call.key for call in decision.calls] == ["dlv-1"]
    later = desk.turn(results=[Result(decision.calls[0], Accepted(("p-1",)))])
    assert ("dlv-2", Status.SUPPRESSED, "suppressed") in ended(later)


# --- what waited when the person opted out -------------------------------------------------------------------------------


def test_a_scheduled_delivery_is_suppressed_when_its_time_comes(desk: Desk[State]) -> None:
    assert ended(desk.turn(to_send(ana(not_before=NOW + 5000)))) == []
    stop(desk)
    assert ended(desk.turn(now=NOW + 5000)) == SUPPRESSED


def test_a_delivery_behind_another_is_suppressed(desk: Desk[State]) -> None:
    first = desk.turn(to_send(ana(), ana("dlv-2", seq=2)))
    stop(desk)
    answer = desk.turn(results=[Result(first.calls[0], Accepted(("p-1",)))])
    assert ended(answer) == [("dlv-1", Status.SENT, None), ("dlv-2", Status.SUPPRESSED, "suppressed")]


@pytest.mark.parametrize(
    "outcome", [RetryLater("502", "502"), RetryLater("slow", "429", 3.0, throttled=True), Unknown("time-out")]
)
def test_a_delivery_is_not_tried_again(outcome: RetryLater | Unknown, desk: Desk[State]) -> None:
    first = desk.turn(to_send(ana()))
    desk.turn(results=[Result(first.calls[0], outcome)])
    stop(desk)
    found: list[tuple[str, Status, str | None]] = []
    now = NOW
    while (due := desk.due()) is not None:
        now = max(now, due)
        decision = desk.turn(now=now)
        assert decision.calls == []
        found += ended(decision)
    assert found[-1:] == SUPPRESSED
    assert desk.rows("outstanding") == {}


def test_a_restart_suppresses_what_waits(desk: Desk[State]) -> None:
    desk.turn(to_send(ana(not_before=NOW + 5000)))
    stop(desk)
    desk.restart(a_send())
    assert ended(desk.turn(now=NOW + 5000)) == SUPPRESSED


def test_the_rest_of_a_text_that_was_begun_is_sent(desk: Desk[State]) -> None:
    first = desk.turn(to_send(ana(text="one|two")))
    stop(desk)
    second = desk.turn(results=[Result(first.calls[0], Accepted(("p-1",)))])
    assert [call.request.part for call in second.calls] == [1]


# --- whose suppression it is ----------------------------------------------------------------------------------------------


def test_every_tenant_of_a_shared_account_is_stopped(desk: Desk[State]) -> None:
    """What people write to a shared account belongs to tenant `default`, whoever's message they answer."""
    stop(desk)
    assert ended(desk.turn(to_send(ana(tenant_id="acme")))) == SUPPRESSED


def test_the_account_of_a_tenant_is_stopped_for_that_tenant(desk: Desk[State]) -> None:
    stop(desk, tenant="acme", account="of-acme")
    assert ended(desk.turn(to_send(ana(tenant_id="acme", account="of-acme")))) == SUPPRESSED
    assert len(desk.turn(to_send(ana("dlv-2", account="acc-1"))).calls) == 1


def test_on_a_channel_of_our_own_each_tenant_has_its_own_people(desk: Desk[State]) -> None:
    stop(desk, tenant="acme", channel="internal", account="app", address="ana")
    own = delivery("dlv-1", channel="internal", account="app", address="ana", tenant_id="acme")
    other = delivery("dlv-2", channel="internal", account="app", address="ana", tenant_id="beta")
    decision = desk.turn(to_send(own, other))
    assert ended(decision) == SUPPRESSED
    assert [call.key for call in decision.calls] == ["dlv-2"]


def test_another_form_of_the_address_is_the_same_person(desk: Desk[State]) -> None:
    stop(desk, address="553187654321")
    assert ended(desk.turn(to_send(ana(address="+55 31 98765-4321")))) == SUPPRESSED


def test_that_nothing_reaches_a_person_is_believed_for_a_while(desk: Desk[State]) -> None:
    stop(desk, Suppressed("not_receiving", NOW))
    assert ended(desk.turn(to_send(ana()), now=NOW + DAY_MS - 1)) == SUPPRESSED
    assert len(desk.turn(to_send(ana("dlv-2")), now=NOW + DAY_MS).calls) == 1


# --- what a refusal says --------------------------------------------------------------------------------------------------


def test_a_refusal_about_the_person_becomes_a_preference(desk: Desk[State]) -> None:
    first = desk.turn(to_send(ana(tenant_id="acme")))
    rejected = Rejected("blocked", "the person blocked the bot", suppresses="blocked")
    decision = desk.turn(results=[Result(first.calls[0], rejected, NOW + 70)], now=NOW + 90)
    (output,) = [each for each in decision.outputs if each.topic == "inbound"]
    assert (output.partition, output.key) == (None, person_key("whatsapp", "acc-1", "15550001").encode())
    assert 0 <= home_partition(output.key, 4) < 4
    assert codec.decode(output.value, Preference) == Preference(
        tenant_id="default",
        event_id="dlv-1:1:blocked",
        channel="whatsapp",
        account="acc-1",
        address="15550001",
        choice=Choice.STOP,
        reason="blocked",
        occurred_at=NOW + 70,
        observed_at=NOW + 70,
    )
    assert ended(decision) == [("dlv-1", Status.FAILED, "blocked")]


def test_a_refusal_of_the_message_says_nothing_about_the_person(desk: Desk[State]) -> None:
    first = desk.turn(to_send(ana()))
    decision = desk.turn(results=[Result(first.calls[0], Rejected("131009", "wrong"))])
    assert [each.topic for each in decision.outputs] == ["status-updates"]


# --- the mirror -----------------------------------------------------------------------------------------------------------


def test_a_record_is_taken_under_its_own_key_only() -> None:
    assert SUPPRESSIONS.decode is suppression_in
    content = suppression(confirmation_id="m-1")
    key = suppression_key("default", "whatsapp", "acc-1", "15550001").encode()
    assert suppression_in(key, codec.encode(content)) == Suppressed("stop_word", NOW, "m-1")
    assert suppression_in(key, codec.encode(dataclasses.replace(content, suppressed=False))) is None
    with pytest.raises(ValueError, match="the record is of suppression"):
        suppression_in(key + b"0", codec.encode(content))
    with pytest.raises(ValueError, match="where a Suppression belongs"):
        suppression_in(key, codec.encode(ANY_OTHER))


ANY_OTHER = delivery()
