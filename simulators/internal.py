"""Simulated clients of the internal channel, and the service between them and the gateway.

What enters: deliveries from topic deliveries.internal; there is no call to answer. What leaves: receipts, and messages that clients write,
posted to the gateway's webhook with a bearer token. Guaranteed: a delivery is in the log before its first receipt is sent; misbehaviour.py
draws the receipts. A client ignores `not_before` and shows a message at once (docs/internal.md).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from confluent_kafka import Message as KafkaMessage

from schemas import codec
from schemas.ids import shown_id
from schemas.kafka_access import KafkaAccess
from schemas.records import SIGNALS, Delivery
from simulators.clock import Clock
from simulators.internal_topic import InternalTopic
from simulators.misbehaviour import CallOutcome, Misbehaviour
from simulators.misbehaviour_schedule import Schedule
from simulators.provider import Provider, ProviderRefused, ReceivedCall, json_response, keys_of
from simulators.provider_log import Log
from simulators.webhook_sender import Notice, Pack, Webhooks

TOPIC = "deliveries.internal"
RETRY_HOURS = 7 * 24.0
ENOUGH = 20_000  # waiting notices, above which no further delivery is read
_PAUSE_SECONDS = 0.1


class NoCalls(ProviderRefused):
    """The answer to every call: this channel has no API."""

    status = 404

    def response(self) -> web.Response:
        return json_response({"error": f"clients have no API: they read topic {TOPIC}"}, self.status)


class ClientService(Webhooks):
    """The service that carries deliveries to the clients and their receipts to the gateway."""

    def __init__(
        self,
        *,
        url: str,
        pack: Pack,
        log: Log,
        clock: Clock,
        schedule: Schedule,
        topic: InternalTopic,
        take: Callable[[KafkaMessage], None],
    ) -> None:
        super().__init__(url=url, pack=pack, log=log, clock=clock, schedule=schedule, retry_hours=RETRY_HOURS)
        self._topic = topic
        self._take_one = take

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._read())

    async def _read(self) -> None:
        fetching: asyncio.Future[list[KafkaMessage]] | None = None
        try:
            while True:
                fetching = asyncio.ensure_future(asyncio.to_thread(self._topic.fetch))
                for record in await asyncio.shield(fetching):
                    self._take_one(record)
                self._log.flush()  # the next fetch commits these
                while self.pending > ENOUGH:  # noqa: ASYNC110  # the heap has no event for "it became smaller"
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            if fetching is not None:
                await asyncio.wait({fetching})  # one thread at a time may use a consumer
            self._topic.close()


class InternalSimulator(Provider):
    """All clients of one account, and the service's token."""

    name = "internal"
    webhooks: ClientService

    def __init__(
        self,
        *,
        account: str,
        token: str,
        kafka: KafkaAccess,
        webhook_url: str,
        misbehaviour: Misbehaviour,
        seed: int,
        log: Log,
        topic: str = TOPIC,
    ) -> None:
        super().__init__(misbehaviour=misbehaviour, seed=seed, log=log)
        self.webhooks = ClientService(
            url=webhook_url,
            pack=self._pack,
            log=log,
            clock=self.clock,
            schedule=self.schedule,
            topic=InternalTopic(kafka, topic),
            take=self._take,
        )
        self._account = account
        self._token = token
        self._written = 0

    def opened(self, request: web.BaseRequest) -> ReceivedCall:
        return ReceivedCall(self._account, f"{request.method} {request.path.rpartition('/')[2]}"[:60])

    async def route(self, request: web.BaseRequest, call: ReceivedCall) -> web.StreamResponse:  # noqa: ARG002  # every call is refused
        raise NoCalls

    def refusal(self, outcome: CallOutcome, misbehaviour: Misbehaviour) -> ProviderRefused:  # noqa: ARG002  # every call is refused
        return NoCalls()

    def controls(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        return {"inbound": self._write}

    def _take(self, record: KafkaMessage) -> None:
        """Logs one delivery as received by its client and schedules its receipts."""
        try:
            delivery = codec.decode(record.value(), Delivery)
        except codec.CodecError:
            self.note(ReceivedCall(self._account, "unreadable"), CallOutcome.REJECTED, 0)
            return
        call = ReceivedCall(delivery.account, delivery.kind, delivery.address, delivery.text)
        if delivery.kind not in SIGNALS:
            call.ids = (_shown(delivery),)
        self.note(call, CallOutcome.ACCEPTED, 0)
        if call.ids:
            self._schedule_receipts(delivery)

    def _schedule_receipts(self, delivery: Delivery) -> None:
        misbehaviour, rng, now = self.schedule.now(), self.random_source.for_call(delivery.address), self.clock.now()
        _, *statuses = rng.statuses(misbehaviour)  # a client does not report SENT
        plan = rng.plan(misbehaviour, statuses)
        early = ((plan.early, 0.0),) if plan.early else ()
        for status, delay in (*early, *plan.later):
            receipt = {
                "delivery_id": delivery.delivery_id,
                "tenant_id": delivery.tenant_id,
                "address": delivery.address,
                "status": status,
                "at": int(now + delay),
            }
            if status == "failed":
                receipt |= {"error_code": "not_shown", "error_title": "the client could not show it"}
            self.webhooks.schedule(Notice(status, _shown(delivery), receipt), delay)
        for status in plan.lost:
            self.log.dropped(status, _shown(delivery), "lost")

    def _write(self, wanted: Mapping[str, Any]) -> object:
        """{"from", "text"} or {"from", "kind", "content"}: a client writes a message."""
        keys_of(("from", "text", "kind", "content"), wanted)
        author, kind, text = wanted.get("from"), wanted.get("kind", "text"), wanted.get("text", "")
        if not (isinstance(author, str) and author and isinstance(kind, str) and isinstance(text, str)):
            raise ValueError('an inbound message needs "from" and "text", or "from", "kind" and "content"')
        self._written += 1
        name = f"m-{self.first}-{self._written}"
        message = {"id": name, "address": author, "kind": kind, "text": text, "at": self.clock.now()}
        self.webhooks.schedule(Notice("inbound", name, message | {"content": wanted.get("content")}), 0.0)
        return {"id": name}

    def _pack(self, notices: Sequence[Notice]) -> tuple[bytes, Mapping[str, str]]:
        body = {
            "receipts": [notice.payload for notice in notices if notice.name != "inbound"],
            "messages": [notice.payload for notice in notices if notice.name == "inbound"],
        }
        return orjson.dumps(body), {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}


def _shown(delivery: Delivery) -> str:
    return shown_id(delivery.delivery_id, delivery.tenant_id, delivery.address)
