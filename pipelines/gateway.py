"""The gateway: receives the webhooks of the providers, and produces receipts, inbound messages and clients' reports to Kafka. It keeps no
state.

A receipt with a valid tracker names its delivery, so it is produced as a status update. Any other receipt goes to topic `receipts`,
where stage match finds its delivery or refuses it. Inbound messages go to `inbound`, where match finds their conversation.

Guaranteed: a request is answered 200 only after Kafka (all replicas) has acknowledged everything in it; an item that Kafka can never
store is produced as a dead letter. A wrong signature or secret is answered 401 and produces nothing; if the headers show it, no body is
read. An unexpected failure, and a Kafka that does not acknowledge, is answered 503, so that the provider sends the webhook again.
Repetitions are harmless, because ids of receipts and messages are deterministic. What a sender can cost is bounded, and a request beyond
a limit is refused (serving/, docs/gateway.md). Health, metrics and schemas have their own port. A channel that is polled (polling.py)
has no webhook.
"""

import asyncio
import dataclasses
import gc
import time
from collections.abc import Mapping, Sequence
from functools import cache

import structlog
from aiohttp import web
from prometheus_client import Counter, Histogram

from connectors.base import Challenged, Connector, Forbidden, Inbound, Polling, Screening, WebhookItems, WebhookRequest
from connectors.registry import CHANNELS
from pipelines import schema_views, topics
from pipelines.acknowledged_producer import AcknowledgedProducer, NotAcknowledged, OutgoingRecord, RefusedRecord
from pipelines.engine.dead_letters import dead_letter
from pipelines.engine.stage import Record, Refusal
from pipelines.polling import Poller, PollingState, polling_during
from pipelines.polling_group import Letter, PollingGroup
from pipelines.receipts import by_tracker
from pipelines.serving import listener
from pipelines.serving.denials import Denied
from pipelines.serving.middleware import GatewayMiddleware
from pipelines.serving.request_bodies import expected
from pipelines.serving.request_limits import DEFAULT, RequestLimits
from schemas import codec, metrics
from schemas.accounts import NONE_LISTED, Accounts, accounts_in
from schemas.keys import key_of, person_key, provider_message_key
from schemas.message_times import is_plausible
from schemas.partitions import home_partition
from schemas.records import CursorReport, InboundMessage, Preference, Receipt, StatusUpdate
from schemas.settings import MissingSetting, Settings
from schemas.tracker import NO_KEYS, Keys, keys_in

EXPECTED = (MissingSetting, topics.TopicsNotRight, listener.CannotListen)
UPDATES = "status-updates"
STAGE = "gateway"  # the stage in dead letters and metrics
MOST_LOGGED = 10  # items of one request that get a log line each
log = structlog.get_logger(__name__)


class Gateway:
    """Two aiohttp applications: `app` for webhooks, `probe` for the operator. Their handlers run on the loop of `producer`; none blocks it.

    `partitions` is the number of partitions of a conversation's topics. `polled` names the channels without a webhook, because the gateway
    polls them; `polling` has the state of each. `accounts` maps accounts to tenants. A tracker is valid if
    one of `tracker_keys` signed it. When `app` is cleaned up, it closes the producer and the connectors."""

    def __init__(
        self,
        *,
        connectors: Mapping[str, Connector],
        producer: AcknowledgedProducer,
        partitions: int,
        accounts: Accounts = NONE_LISTED,
        tracker_keys: Keys = NO_KEYS,
        bounds: RequestLimits = DEFAULT,
        polled: frozenset[str] = frozenset(),
    ) -> None:
        self.polling = {channel: PollingState() for channel in sorted(polled)}
        self._keys = tracker_keys
        self._partitions = partitions
        self._connectors = connectors
        screening = {name: each for name, each in connectors.items() if isinstance(each, Screening)}
        self._screens = {name: each.screen for name, each in screening.items()}
        self._accounts = accounts
        self._producer = producer
        signed = frozenset(name for name, each in screening.items() if each.signs_bodies)
        self.limits = GatewayMiddleware(bounds, frozenset(connectors), signed)
        self.app = web.Application(middlewares=[self.limits.middleware()])
        self.app.router.add_get("/webhooks/{channel}", self.verify, expect_handler=expected, allow_head=False)
        self.app.router.add_post("/webhooks/{channel}", self.receive, expect_handler=expected)
        # without this route, a request with `Expect` and an unknown path gets aiohttp's own answer, past every middleware
        self.app.router.add_route("*", "/{path:.*}", self.nowhere, expect_handler=expected)
        self.app.on_cleanup.append(self._close)
        self.probe = web.Application()
        self.probe.add_routes(
            [web.get("/health", self.health), web.get("/metrics", self.metrics), *schema_views.routes()]
        )

    async def health(self, _: web.Request) -> web.Response:
        """Always ready: a restart does not end what keeps updates away; `polling` shows it."""
        answer: dict[str, object] = {
            "status": "ready",
            "stage": "gateway",
            "channels": sorted(self._connectors),
            "polling": {channel: state.shown() for channel, state in self.polling.items()},
        }
        return web.json_response(answer)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), content_type="text/plain")

    async def verify(self, request: web.Request) -> web.Response:
        """Answers the question of a provider (Meta) whether the webhook is ours. Raises Denied: 404 or 403."""
        connector = self._connectors.get(request.match_info["channel"])
        if not isinstance(connector, Challenged):
            raise Denied(404, "no such webhook")
        try:
            answer = connector.challenge(WebhookRequest(request.method, dict(request.query), _headers(request), b""))
        except Forbidden as error:
            raise Denied(403, str(error)) from None
        self.limits.proven(request)
        return web.Response(text=answer)

    async def nowhere(self, _: web.Request) -> web.Response:
        raise Denied(404, "no such path or method")

    async def receive(self, request: web.Request) -> web.Response:
        """Takes one webhook; answers 200 once Kafka has acknowledged everything in it. Raises Denied for every refusal."""
        channel = request.match_info["channel"]
        known = channel if channel in self._connectors else "unknown"
        status = 503
        with _seconds_of(known).time():
            try:
                response = await self._receive(channel, request)
                status = response.status
            except Denied as denied:
                status = denied.status
                raise
            finally:
                _answered_with(known, status).inc()
        return response

    async def _receive(self, channel: str, request: web.Request) -> web.Response:
        if channel in self.polling:
            raise Denied(404, "this channel is polled: it has no webhook")
        connector = self._connectors.get(channel)
        if connector is None:
            raise Denied(404, "no such webhook")
        received_at = int(time.time() * 1000)
        with self.limits.body(request) as body:
            try:
                headers = _headers(request)
                if channel in self._screens:
                    self._screens[channel](headers)
                asked = WebhookRequest(request.method, dict(request.query), headers, await body.read())
                items = connector.parse_webhook(asked, received_at)
            except Forbidden as error:
                raise Denied(error.status, str(error)) from None
            self.limits.proven(request)
            self.limits.admit(_accounts_of(channel, items))
            return await self._take(channel, items, received_at)

    async def _take(self, channel: str, items: WebhookItems, received_at: int) -> web.Response:
        """Produces the items of a proven request, and answers."""
        records = self.records(channel, items, received_at)
        try:
            refused = await self._produce(channel, records, received_at)
        except NotAcknowledged as error:
            raise Denied(503, "not stored, send it again", 1, because=f"not stored: {error}") from None
        lines = [f"not recognised: {name}" for name in items.unrecognised]
        lines += [f"refused: {each.detail}" for each in refused]
        return web.Response(text="\n".join(("ok", *lines[:100])))

    def records(self, channel: str, items: WebhookItems, received_at: int) -> list[OutgoingRecord]:
        """Counts the items and makes their records. Does not block."""
        _count(channel, items)
        accounts = None if items.own_tenants else self._accounts
        records = [_receipt(r, self._partitions, accounts, self._keys) for r in items.receipts]
        direct = sum(record.topic == UPDATES for record in records)
        _items_of(channel, "told_by_tracker").inc(direct)
        records += [_inbound(i, received_at, accounts) for i in items.inbound]
        records += [_preference(p, accounts) for p in items.preferences]
        return records + [_report(report, self._partitions) for report in items.reports]

    async def _produce(self, channel: str, records: list[OutgoingRecord], received_at: int) -> list[RefusedRecord]:
        """Returns once Kafka has every record, in its topic or, for those it returns, as a dead letter; else raises NotAcknowledged."""
        refused = await self._producer.produce(records)
        letters = list(map(self.letter(received_at), refused))
        refused_letters = await self._producer.produce(letters) if letters else []
        if refused_letters:
            raise NotAcknowledged(f"the dead letter of an item is refused as well: {refused_letters[0].detail}")
        self.note_refused(channel, refused)
        return refused

    def letter(self, received_at: int) -> Letter:
        """What makes the dead letter of a refused record; any thread may call it."""
        return lambda refused: _letter(refused, received_at)

    def note_refused(self, channel: str, refused: Sequence[RefusedRecord]) -> None:
        """Counts and logs records that became dead letters."""
        for number, each in enumerate(refused):
            if number < MOST_LOGGED:
                log.error(
                    "webhook item refused", channel=channel, topic=each.record[0], cause=each.cause, detail=each.detail
                )
            metrics.DEAD_LETTERS.labels(STAGE, each.cause).inc()
            metrics.WEBHOOK_ITEMS.labels(channel, "refused").inc()

    async def _close(self, _: web.Application) -> None:
        await self._producer.close()
        for connector in self._connectors.values():
            await connector.close()


def _letter(refused: RefusedRecord, received_at: int) -> OutgoingRecord:
    topic, key, value, _ = refused.record
    record = Record(topic, -1, -1, received_at, key, value, ())  # no partition, no offset: it never was in Kafka
    refusal = Refusal(record, refused.cause, refused.detail, codec.decode_any(value).tenant_id)
    output = dead_letter(STAGE, refusal, received_at)
    return OutgoingRecord(output.topic, output.key, output.value or b"")


def _receipt(
    receipt: Receipt, partitions: int, accounts: Accounts | None = NONE_LISTED, keys: Keys = NO_KEYS
) -> OutgoingRecord:
    if accounts is not None:
        tenant = accounts.tenant_of(receipt.channel, receipt.account)
        if tenant != receipt.tenant_id:
            receipt = dataclasses.replace(receipt, tenant_id=tenant)
    update = by_tracker(receipt, partitions, keys)
    if isinstance(update, StatusUpdate):
        if not is_plausible(receipt.provider_at, receipt.received_at):  # match counts those of the others
            metrics.WEBHOOK_ITEMS.labels(receipt.channel, "implausible_time").inc()
        return OutgoingRecord(UPDATES, key_of(update), codec.encode(update), update.home_partition)
    if update is None and receipt.callback_data:
        metrics.WEBHOOK_ITEMS.labels(receipt.channel, "tracker_not_believed").inc()
    key = provider_message_key(receipt.channel, receipt.account, receipt.provider_message_id)
    return OutgoingRecord("receipts", key.encode(), codec.encode(receipt))


def _inbound(item: Inbound, received_at: int, accounts: Accounts | None = NONE_LISTED) -> OutgoingRecord:
    message = InboundMessage(
        tenant_id=item.tenant_id if accounts is None else accounts.tenant_of(item.channel, item.account),
        channel=item.channel,
        account=item.account,
        address=item.address,
        provider_message_id=item.provider_message_id,
        kind=item.kind,
        text=item.text,
        content=item.content,
        provider_at=item.at,
        received_at=received_at,
    )
    key = person_key(item.channel, item.account, item.address)
    return OutgoingRecord("inbound", key.encode(), codec.encode(message))


def _preference(preference: Preference, accounts: Accounts | None = NONE_LISTED) -> OutgoingRecord:
    if accounts is not None:
        tenant = accounts.tenant_of(preference.channel, preference.account)
        preference = dataclasses.replace(preference, tenant_id=tenant)
    key = person_key(preference.channel, preference.account, preference.address)
    return OutgoingRecord("inbound", key.encode(), codec.encode(preference))


def _report(report: CursorReport, partitions: int) -> OutgoingRecord:
    """The client's report, for the conversation's home partition."""
    key = key_of(report)
    home = home_partition(key, partitions)
    return OutgoingRecord("cursor-reports", key, codec.encode(dataclasses.replace(report, home_partition=home)), home)


def _count(channel: str, items: WebhookItems) -> None:
    _items_of(channel, "receipt").inc(len(items.receipts))
    _items_of(channel, "inbound").inc(len(items.inbound))
    _items_of(channel, "preference").inc(len(items.preferences))
    _items_of(channel, "report").inc(len(items.reports))
    _items_of(channel, "unrecognised").inc(len(items.unrecognised))
    _items_of(channel, "notice").inc(len(items.notices))
    for notice in items.notices[:MOST_LOGGED]:
        log.info("webhook notice", channel=channel, notice=notice, of=len(items.notices))
    for name in items.unrecognised[:MOST_LOGGED]:
        log.info("webhook item not recognised", channel=channel, item=name, of=len(items.unrecognised))


def _accounts_of(channel: str, items: WebhookItems) -> frozenset[str]:
    found = {
        item.account for kind in (items.receipts, items.inbound, items.reports, items.preferences) for item in kind
    }
    return frozenset(f"{channel}:{account}" for account in found or {""})


def _headers(request: web.Request) -> Mapping[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


# Looking up a series of a metric by its labels takes the client library longer than counting.


@cache
def _seconds_of(channel: str) -> Histogram:
    return metrics.WEBHOOK_SECONDS.labels(channel)


@cache
def _answered_with(channel: str, status: int) -> Counter:
    return metrics.WEBHOOKS.labels(channel, str(status))


@cache
def _items_of(channel: str, kind: str) -> Counter:
    return metrics.WEBHOOK_ITEMS.labels(channel, kind)


def run(settings: Settings) -> None:
    """Serves webhooks; blocks until SIGTERM or SIGINT. Raises one of EXPECTED before it takes a request."""
    connectors = {name: channel.build(settings) for name, channel in CHANNELS.items() if channel.account(settings)}
    asked = {name for name, channel in CHANNELS.items() if name in connectors and channel.polls(settings)}
    wanted = {name for channel in connectors.keys() - asked for name in CHANNELS[channel].webhook_settings}
    wanted |= {name for channel in asked for name in CHANNELS[channel].send_settings}
    settings.require("kafka_url", "tracker_keys", *sorted(wanted))
    topics.check(settings, {"receipts", "inbound", "cursor-reports", UPDATES})
    topics.check(settings, {"dead-letters"})
    if asked:
        topics.check(settings, {topics.POLLING})
    asyncio.run(_serve(settings, connectors, frozenset(asked)))


def _collect_rarely() -> None:
    """Makes Python look for reference cycles a tenth as often, and never at what was imported. By default that takes a tenth of the CPU of
    a request. Blocks for one collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _serve(settings: Settings, connectors: Mapping[str, Connector], asked: frozenset[str]) -> None:
    _collect_rarely()
    bounds = RequestLimits.from_settings(settings)
    gateway = Gateway(
        connectors=connectors,
        producer=AcknowledgedProducer(settings.kafka, asyncio.get_running_loop(), linger_ms=settings.gateway_linger_ms),
        partitions=settings.partitions,
        accounts=accounts_in(settings.accounts),
        tracker_keys=keys_in(settings.tracker_keys.get_secret_value()),
        bounds=dataclasses.replace(bounds, connections=listener.files_for(bounds.connections)),
        polled=asked,
    )
    pollers = [_poller(channel, connectors[channel], gateway, settings) for channel in sorted(asked)]
    probe = listener.plain(gateway.probe, settings.gateway_probe_host, settings.gateway_probe_port)
    webhooks = listener.bounded(gateway.app, gateway.limits, settings.gateway_host, settings.gateway_port)
    async with probe, webhooks, polling_during(pollers):
        await listener.until_signal()


def _poller(channel: str, connector: Connector, gateway: Gateway, settings: Settings) -> Poller:
    if not isinstance(connector, Polling):
        raise TypeError(f"the declaration of channel {channel} says that it is polled, but its connector is no Polling")
    account = CHANNELS[channel].account(settings)
    group = PollingGroup(settings.kafka, channel, account, settings.session_timeout_seconds)
    return Poller(channel=channel, connector=connector, group=group, made=gateway, state=gateway.polling[channel])
