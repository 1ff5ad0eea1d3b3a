"""A sweep asks as little as it must, stops when a provider refuses, and puts each delivery under one heading."""

from collections.abc import Sequence
from typing import Any

import pytest

from connectors.base import ProviderAnswer
from pipelines import receipt_sweep
from pipelines.receipt_sweep import NO_ID, SweptChannel
from schemas import codec
from schemas.accounts import accounts_in
from schemas.records import Receipt
from sinks.history import WaitingDelivery
from tests.support import builders

READ = ProviderAnswer((builders.receipt(),))
NOTHING = ProviderAnswer()


class Asked:
    """A provider with these answers; then it knows nothing more."""

    def __init__(self, *answers: ProviderAnswer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    async def ask(self, account: str, provider_message_id: str, received_at: int) -> ProviderAnswer:
        assert received_at > 1_700_000_000_000
        self.asked.append((account, provider_message_id))
        return self.answers.pop(0) if self.answers else NOTHING


class Silent:
    async def webhook_state(self) -> str:
        return "7 updates wait"


def stalled(n: int, **changes: Any) -> WaitingDelivery:
    values: dict[str, Any] = dict.fromkeys(WaitingDelivery.__dataclass_fields__, "x") | {
        "account": "a",
        "delivery_id": f"d{n}",
        "provider_message_id": f"wamid.{n}",
        "sent_at": 1,
        "stalled_at": None,
    }
    return WaitingDelivery(**(values | changes))


async def swept(
    connector: Any, deliveries: Sequence[WaitingDelivery], waits: list[float] | None = None
) -> SweptChannel:
    async def wait(seconds: float) -> None:
        (waits if waits is not None else []).append(seconds)

    return await receipt_sweep.sweep("whatsapp", deliveries, connector, "nobody answers", per_second=4, wait=wait)


def ids(deliveries: Sequence[WaitingDelivery]) -> list[str]:
    return [each.delivery_id for each in deliveries]


async def test_each_delivery_is_asked_about_once_at_the_given_rate() -> None:
    provider, waits = Asked(READ, NOTHING), list[float]()
    found = await swept(provider, [stalled(1), stalled(2), stalled(3)], waits)
    assert provider.asked == [("a", "wamid.1"), ("a", "wamid.2"), ("a", "wamid.3")]
    assert waits == [0.25, 0.25]
    assert (ids(found.found), ids(found.missing), found.asked, found.reasons) == (["d1"], ["d2", "d3"], 3, [])
    assert found.receipts == list(READ.receipts)


async def test_a_delivery_without_an_id_of_the_provider_is_not_asked_about() -> None:
    provider = Asked(READ)
    found = await swept(provider, [stalled(1, provider_message_id=None), stalled(2)])
    assert (ids(found.not_asked), ids(found.found), found.reasons) == (["d1"], ["d2"], [NO_ID])


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([ProviderAnswer(refusal="no", is_final=True)], 1),
        ([ProviderAnswer(refusal="no")] * 5, 3),
        ([ProviderAnswer(refusal="no"), NOTHING] * 3, 6),
    ],
)
async def test_a_provider_that_refuses_is_left_alone(answers: list[ProviderAnswer], asked: int) -> None:
    provider = Asked(*answers)
    found = await swept(provider, [stalled(n) for n in range(6)])
    assert (len(provider.asked), found.asked, found.reasons) == (asked, asked, ["no"])
    assert len(found.refused) + len(found.missing) + len(found.not_asked) == 6


async def test_a_provider_that_cannot_be_asked_says_why_and_how_its_webhooks_fare() -> None:
    found = await swept(Silent(), [stalled(1)])
    assert (found.asked, ids(found.not_asked), found.reasons) == (0, ["d1"], ["nobody answers"])
    assert found.webhook_state == "7 updates wait"
    assert (await swept(Silent(), [])).webhook_state == ""


def test_a_record_has_the_key_and_the_tenant_that_the_gateway_gives_it() -> None:
    receipt = builders.receipt(channel="whatsapp", account="7", provider_message_id="wamid.1")
    [record] = receipt_sweep.records([receipt], accounts_in("whatsapp:7=acme"))
    assert (record.topic, record.key, record.partition) == ("receipts", b"whatsapp:7:wamid.1", None)
    assert codec.decode(record.value, Receipt).tenant_id == "acme"
