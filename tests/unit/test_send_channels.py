"""Stage send and channels that it does not have. An error on a call's result could not be traced to a record."""

import pytest

from pipelines.engine.stage import Call, Result
from pipelines.send import UNCONFIGURED_MS, Send
from pipelines.send_state import SendLimits
from schemas.outcomes import Accepted, Unknown
from schemas.records import Status, StatusUpdate
from tests.support.builders import NOW, Desk, decoded, delivery, numbered, record, refused, update
from tests.support.counting_provider import Provider

LIMITS = SendLimits(concurrency=4, outstanding=10, attempts=2, hold_ms=1000)
TELEGRAM = delivery("tg", channel="telegram")


def a_send(*channels: str) -> Send:
    return Send(connectors={name: Provider(name, "hold") for name in channels}, limits=LIMITS)


@pytest.mark.parametrize("channel", ["pigeon", "telegram", "WHATSAPP"])
def test_a_delivery_of_an_unconfigured_channel_is_refused_and_never_called(channel: str) -> None:
    desk = Desk(a_send("whatsapp"))
    odd, good = delivery("odd", channel=channel), delivery("good")
    decision = desk.turn(numbered([record("deliveries.whatsapp", each) for each in (odd, good)]))
    assert refused(decision) == ["unknown_channel"]
    assert [call.key for call in decision.calls] == ["good"]
    assert set(desk.rows("outstanding")) == {b"good"}


@pytest.mark.parametrize("is_called", [False, True], ids=["waiting", "called"])
@pytest.mark.parametrize("is_proven", [False, True], ids=["no evidence", "evidence"])
def test_rows_of_a_removed_channel_wait_until_it_is_configured_again(*, is_called: bool, is_proven: bool) -> None:
    desk = Desk(a_send("whatsapp", "telegram"))
    desk.turn([record("deliveries.telegram", TELEGRAM)], closing=not is_called)
    desk.restart(a_send("whatsapp"))
    good = record("deliveries.whatsapp", delivery("good", address="2"))
    evidence = record("status-updates", update("r", delivery_id="tg", provider_message_id="5:1"))
    now = NOW
    assert [call.key for call in desk.turn([good, *([evidence] if is_proven else [])]).calls] == ["good"]
    for _ in range(3):
        due = desk.due()
        assert due is not None
        assert due > now, "nothing is retried in a loop"
        now = due
        assert desk.turn(now=now).calls == []
    assert b"tg" in desk.rows("outstanding")
    desk.restart(a_send("whatsapp", "telegram"))
    calls: list[Call] = []
    reported: list[Status] = []
    for _ in range(4):
        now = max(now, desk.due() or now) + UNCONFIGURED_MS
        decision = desk.turn(results=[Result(call, Accepted(("5:1",))) for call in calls if call.key == "tg"], now=now)
        calls = list(decision.calls)
        reported += [
            each.status
            for each in decoded(decision.outputs, "status-updates", StatusUpdate)
            if each.delivery_id == "tg"
        ]
    assert reported[-1] is Status.SENT
    assert b"tg" not in desk.rows("outstanding")


def test_evidence_is_kept_while_the_channel_is_not_configured() -> None:
    """Otherwise the message would be sent twice after the setting returns."""
    desk = Desk(a_send("telegram"))
    (call,) = desk.turn([record("deliveries.telegram", TELEGRAM)]).calls
    desk.turn(results=[Result(call, Unknown("no answer"))])
    desk.restart(a_send("whatsapp"))
    desk.turn([record("status-updates", update("r", delivery_id="tg", provider_message_id="5:1"))])
    desk.restart(a_send("telegram"))
    decision = desk.turn(now=NOW + LIMITS.hold_ms + UNCONFIGURED_MS)
    assert decision.calls == []
    assert [each.status for each in decoded(decision.outputs, "status-updates", StatusUpdate)] == [Status.SENT]


async def test_stopping_closes_the_connectors() -> None:
    provider = Provider("whatsapp", "hold")
    await Send(connectors={"whatsapp": provider}, limits=LIMITS).stop()
    assert provider.closed
