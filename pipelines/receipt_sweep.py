"""Asks providers for receipts whose webhooks were lost.

In: deliveries without a receipt, and the connector of their channel. Out: the receipts that the provider knows, as records for topic
`receipts`, and what was asked. Guaranteed: a receipt has the event id that its webhook gives, so one that comes both ways counts once; no
more questions than deliveries, one at a time and no more than the given number a second; a provider that refuses is left alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from connectors.base import Asking, Connector, Reporting
from pipelines.acknowledged_producer import OutgoingRecord
from schemas import codec
from schemas.accounts import Accounts
from schemas.keys import provider_message_key
from schemas.records import Receipt
from sinks.history import WaitingDelivery

MOST_REFUSALS = 3  # in a row, of which none says that the next question is refused too
NO_ID = "no id of the provider is known"


@dataclass(slots=True)
class SweptChannel:
    """What a sweep of one channel found. Every delivery is in exactly one of `found`, `missing` and `not_asked`, or was refused."""

    channel: str
    receipts: list[Receipt] = field(default_factory=list)
    found: list[WaitingDelivery] = field(default_factory=list)  # the provider knows a receipt
    missing: list[WaitingDelivery] = field(default_factory=list)  # it answered, and knows no receipt
    refused: list[WaitingDelivery] = field(default_factory=list)  # asked, and it gave no answer
    not_asked: list[WaitingDelivery] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # why deliveries were refused or not asked, each reason once
    webhook_state: str = ""  # what the provider says about its webhooks to us

    @property
    def asked(self) -> int:
        return len(self.found) + len(self.missing) + len(self.refused)

    def because(self, reason: str) -> None:
        if reason and reason not in self.reasons:
            self.reasons.append(reason)


def unasked(channel: str, deliveries: Iterable[WaitingDelivery], reason: str) -> SweptChannel:
    """The result for a channel whose provider is not asked, for `reason`. Pure."""
    return SweptChannel(channel, not_asked=list(deliveries), reasons=[reason])


async def sweep(
    channel: str,
    deliveries: Sequence[WaitingDelivery],
    connector: Connector,
    no_answers: str,
    *,
    per_second: float,
    wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> SweptChannel:
    """Asks about the deliveries of a channel, in their order. `no_answers` is the channel's declared reason why it cannot be asked. `wait`
    waits some seconds. Does not close the connector. Raises nothing but what the connector may raise: cancellation."""
    if not isinstance(connector, Asking):
        swept = unasked(channel, deliveries, no_answers)
    else:
        swept = await _asked(channel, deliveries, connector, wait, 1 / per_second)
    if isinstance(connector, Reporting) and deliveries:
        swept.webhook_state = await connector.webhook_state()
    return swept


async def _asked(
    channel: str,
    deliveries: Sequence[WaitingDelivery],
    connector: Asking,
    wait: Callable[[float], Awaitable[object]],
    pause: float,
) -> SweptChannel:
    swept = SweptChannel(channel)
    in_a_row, is_over = 0, False
    for delivery in deliveries:
        if is_over or delivery.provider_message_id is None:
            swept.not_asked.append(delivery)
            swept.because("" if is_over else NO_ID)
            continue
        if swept.asked:
            await wait(pause)
        answer = await connector.ask(delivery.account, delivery.provider_message_id, time.time_ns() // 1_000_000)
        if answer.refusal:
            swept.refused.append(delivery)
            swept.because(answer.refusal)
            in_a_row += 1
            is_over = answer.is_final or in_a_row == MOST_REFUSALS
            continue
        in_a_row = 0
        swept.receipts += answer.receipts
        (swept.found if answer.receipts else swept.missing).append(delivery)
    return swept


def records(receipts: Iterable[Receipt], accounts: Accounts) -> list[OutgoingRecord]:
    """The receipts as records of topic `receipts`, as the gateway makes them of a webhook without a tracker. Pure."""
    return [
        OutgoingRecord(
            "receipts",
            provider_message_key(each.channel, each.account, each.provider_message_id).encode(),
            codec.encode(replace(each, tenant_id=accounts.tenant_of(each.channel, each.account))),
        )
        for each in receipts
    ]
