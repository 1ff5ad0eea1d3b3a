"""The gateway: providers' webhooks in, receipts and inbound messages out to Kafka. HTTP only, no state.

A receipt that names its delivery, by our tracker, becomes the status update itself; any other, and one whose tracker cannot be believed,
goes to `receipts`, where match finds its delivery or refuses it.

Guaranteed: a request is answered 200 only after everything in it is acknowledged by Kafka (all replicas), what can never be kept as a
dead letter; a wrong signature is answered 401 and produces nothing; whatever else goes wrong is answered 503, so the provider sends it
again. Repetitions are harmless: receipts and message ids are deterministic.
"""

import asyncio
import dataclasses
import time
from collections.abc import Mapping

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from connectors.base import Challenged, Connector, Forbidden, Inbound, WebhookItems, WebhookRequest
from connectors.registry import CHANNELS
from pipelines import schema_views, topics
from pipelines.engine.dead_letters import dead_letter
from pipelines.engine.stage import Record, Refusal
from pipelines.produce import NotAcknowledged, Produced, Producing, Unkept
from pipelines.receipts import by_tracker
from schemas import codec, metrics
from schemas.accounts import NONE_LISTED, Accounts, accounts_in
from schemas.ids import inbound_conversation_id, inbound_message_id
from schemas.keys import key_of, provider_message_key
from schemas.records import Direction, Message, Receipt, StatusUpdate
from schemas.settings import MissingSetting, Settings
from schemas.tracker import NO_KEYS, Keys, keys_in

EXPECTED = (MissingSetting, topics.TopicsNotRight)
UPDATES = "status-updates"
STAGE = "gateway"  # as dead letters and metrics name it
MAX_BODY_BYTES = 3 * 1024 * 1024  # Meta's webhook bodies have up to 3 MB
log = structlog.get_logger(__name__)


class Gateway:
    """The aiohttp application and what it holds; `partitions` are those of a conversation's topics, `accounts` says whose is what comes
    in; trackers are believed that one of `tracker_keys` signed."""

    def __init__(
        self,
        *,
        connectors: Mapping[str, Connector],
        producing: Producing,
        partitions: int,
        accounts: Accounts = NONE_LISTED,
        tracker_keys: Keys = NO_KEYS,
    ) -> None:
        self._keys = tracker_keys
        self._partitions = partitions
        self._connectors = connectors
        self._accounts = accounts
        self._producing = producing
        self.app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refuse_unreadable])
        self.app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/webhooks/{channel}", self.verify),
                web.post("/webhooks/{channel}", self.receive),
                *schema_views.routes(),
            ]
        )
        self.app.on_cleanup.append(self._close)

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ready", "stage": "gateway", "channels": sorted(self._connectors)})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), content_type="text/plain")

    async def verify(self, request: web.Request) -> web.Response:
        """A provider's question whether the webhook is ours, as Meta asks; other channels have none."""
        connector = self._connectors.get(request.match_info["channel"])
        if not isinstance(connector, Challenged):
            return web.Response(status=404, text="no such webhook")
        try:
            return web.Response(text=connector.challenge(await _webhook_request(request)))
        except Forbidden as error:
            return web.Response(status=403, text=str(error))

    async def receive(self, request: web.Request) -> web.Response:
        channel = request.match_info["channel"]
        known = channel if channel in self._connectors else "unknown"
        with metrics.WEBHOOK_SECONDS.labels(known).time():
            response = await self._receive(channel, request)
        metrics.WEBHOOKS.labels(known, str(response.status)).inc()
        return response

    async def _receive(self, channel: str, request: web.Request) -> web.Response:
        connector = self._connectors.get(channel)
        if connector is None:
            return web.Response(status=404, text="no such webhook")
        received_at = int(time.time() * 1000)
        try:
            items = connector.parse_webhook(await _webhook_request(request), received_at)
        except Forbidden as error:
            log.warning("webhook refused", channel=channel, reason=str(error))
            return web.Response(status=401, text=str(error))
        _count(channel, items)
        records = [_receipt(r, self._partitions, self._accounts, self._keys) for r in items.receipts]
        direct = sum(record.topic == UPDATES for record in records)
        metrics.WEBHOOK_ITEMS.labels(channel, "told_by_tracker").inc(direct)
        records += [_inbound(i, received_at, self._accounts) for i in items.inbound]
        try:
            unkept = await self._keep(channel, records, received_at)
        except NotAcknowledged as error:
            log.error("webhook not kept", channel=channel, reason=str(error))
            return web.Response(status=503, text="not kept, send it again", headers={"Retry-After": "1"})
        told = [f"not recognised: {name}" for name in items.unrecognised] + [
            f"refused: {each.detail}" for each in unkept
        ]
        return web.Response(text="\n".join(("ok", *told[:100])))

    async def _keep(self, channel: str, records: list[Produced], received_at: int) -> list[Unkept]:
        """Returns when all are in Kafka: on their topics, or, those it returns, as dead letters; else raises NotAcknowledged."""
        unkept = await self._producing.all(records)
        letters = [_letter(each, received_at) for each in unkept]
        refused = await self._producing.all(letters) if letters else []
        if refused:
            raise NotAcknowledged(f"the dead letter of an item is refused as well: {refused[0].detail}")
        for each in unkept:
            log.error(
                "webhook item refused", channel=channel, topic=each.record[0], cause=each.cause, detail=each.detail
            )
            metrics.DEAD_LETTERS.labels(STAGE, each.cause).inc()
            metrics.WEBHOOK_ITEMS.labels(channel, "refused").inc()
        return unkept

    async def _close(self, _: web.Application) -> None:
        await self._producing.close()
        for connector in self._connectors.values():
            await connector.close()


def _letter(unkept: Unkept, received_at: int) -> Produced:
    topic, key, value, _ = unkept.record
    record = Record(topic, -1, -1, received_at, key, value, ())  # no place: it never was in Kafka
    refusal = Refusal(record, unkept.cause, unkept.detail, codec.decode_any(value).tenant_id)
    output = dead_letter(STAGE, refusal, received_at)
    return Produced(output.topic, output.key, output.value or b"")


def _receipt(receipt: Receipt, partitions: int, accounts: Accounts = NONE_LISTED, keys: Keys = NO_KEYS) -> Produced:
    receipt = dataclasses.replace(receipt, tenant_id=accounts.tenant_of(receipt.channel, receipt.account))
    told = by_tracker(receipt, partitions, keys)
    if isinstance(told, StatusUpdate):
        return Produced(UPDATES, key_of(told), codec.encode(told), told.home_partition)
    if told is None and receipt.callback_data:
        metrics.WEBHOOK_ITEMS.labels(receipt.channel, "tracker_not_believed").inc()
    key = provider_message_key(receipt.channel, receipt.account, receipt.provider_message_id)
    return Produced("receipts", key.encode(), codec.encode(receipt))


def _inbound(item: Inbound, received_at: int, accounts: Accounts = NONE_LISTED) -> Produced:
    message = Message(
        tenant_id=accounts.tenant_of(item.channel, item.account),
        message_id=inbound_message_id(item.channel, item.account, item.provider_message_id),
        conversation_id=inbound_conversation_id(item.channel, item.account, item.address),
        direction=Direction.INBOUND,
        sender=item.address,
        kind=item.kind,
        text=item.text,
        requested_at=received_at,
        metadata={
            "channel": item.channel,
            "account": item.account,
            "provider_message_id": item.provider_message_id,
            "at": str(item.at),
        },
        content=item.content,
    )
    return Produced("inbound", key_of(message), codec.encode(message))


def _count(channel: str, items: WebhookItems) -> None:
    metrics.WEBHOOK_ITEMS.labels(channel, "receipt").inc(len(items.receipts))
    metrics.WEBHOOK_ITEMS.labels(channel, "inbound").inc(len(items.inbound))
    metrics.WEBHOOK_ITEMS.labels(channel, "unrecognised").inc(len(items.unrecognised))
    metrics.WEBHOOK_ITEMS.labels(channel, "notice").inc(len(items.notices))
    for notice in items.notices:
        log.info("webhook notice", channel=channel, notice=notice)
    for name in items.unrecognised:
        log.info("webhook item not recognised", channel=channel, item=name)


@web.middleware
async def _refuse_unreadable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A body that is not compressed as its header says, or is cut off, would be no better the next time."""
    try:
        return await handler(request)
    except web.RequestPayloadError:
        return web.Response(status=400, text="the body cannot be decoded")


async def _webhook_request(request: web.Request) -> WebhookRequest:
    return WebhookRequest(
        method=request.method,
        query=dict(request.query),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await request.read(),
    )


def run(settings: Settings) -> None:
    """Serves until it is told to stop."""
    connectors = {name: channel.build(settings) for name, channel in CHANNELS.items() if channel.account(settings)}
    wanted = {name for channel in connectors for name in CHANNELS[channel].webhook_settings}
    settings.require("kafka_url", "tracker_keys", *sorted(wanted))
    topics.check(settings, {"receipts", "inbound", UPDATES})
    topics.check(settings, {"dead-letters"})

    async def serve() -> web.Application:
        producing = Producing(settings.kafka, asyncio.get_running_loop(), linger_ms=settings.gateway_linger_ms)
        accounts = accounts_in(settings.accounts)
        return Gateway(
            connectors=connectors,
            producing=producing,
            partitions=settings.partitions,
            accounts=accounts,
            tracker_keys=keys_in(settings.tracker_keys.get_secret_value()),
        ).app

    web.run_app(serve(), host=settings.gateway_host, port=settings.gateway_port, print=None, access_log=None)
