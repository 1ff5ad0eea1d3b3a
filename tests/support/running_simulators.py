"""Simulated providers and the webhook they talk to, in one process, for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from connectors.base import Connector, Inbound, WebhookRequest
from connectors.telegram.connector import TelegramConnector
from connectors.whatsapp.connector import WhatsAppConnector
from schemas.records import Delivery, Receipt
from simulators.http_server import running
from simulators.instagram import InstagramSimulator
from simulators.misbehaviour import Misbehaviour
from simulators.provider import Provider
from simulators.provider_limits import NONE, ProviderLimits
from simulators.provider_log import Log
from simulators.telegram import TelegramSimulator
from simulators.whatsapp import WhatsAppSimulator
from tests.support.builders import TRACKER_KEYS

ACCOUNT, TOKEN, APP_SECRET = "106540352242922", "EAA-token", "app-secret"
BOT_TOKEN, HOOK_SECRET = "4242:bot-token", "hook-secret"
IG_ACCOUNT, IG_TOKEN = "17841400000000001", "IGAA-token"
QUICK = {"latency_ms": 1.0, "receipt_delay_ms": 5.0}


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds that has no event."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # the state of a simulator, which in production is another process
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Posted:
    """One webhook request as it arrived. Names of headers are lower-case."""

    body: bytes
    headers: dict[str, str]
    query: dict[str, str]
    method: str


class Receiver:
    """A webhook. With a connector it parses requests, so an unsigned body fails the test; the first `refusals` requests get a 503."""

    def __init__(self, connector: Connector | None = None, refusals: int = 0) -> None:
        self.connector = connector
        self.refusals = refusals
        self.answer_status = 200
        self.posts: list[Posted] = []
        self.receipts: list[Receipt] = []
        self.inbound: list[Inbound] = []
        self.unrecognised: list[str] = []
        self.changed = asyncio.Event()

    @property
    def bodies(self) -> list[bytes]:
        return [post.body for post in self.posts]

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        post = Posted(await request.read(), headers, dict(request.query), request.method)
        if request.method == "GET":
            is_known = post.query.get("hub.verify_token") == "verify-me"
            return web.Response(text=post.query.get("hub.challenge", "")) if is_known else web.Response(status=403)
        if self.connector is not None:
            self._read(self.connector, post)
        if self.refusals > 0:
            self.refusals -= 1
            return web.Response(status=503)
        self.posts.append(post)
        self.changed.set()
        return web.Response(status=self.answer_status)

    def _read(self, connector: Connector, post: Posted) -> None:
        items = connector.parse_webhook(WebhookRequest(post.method, post.query, post.headers, post.body), 1)
        if self.refusals == 0:
            self.receipts += items.receipts
            self.inbound += items.inbound
            self.unrecognised += items.unrecognised

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@dataclass(frozen=True, slots=True)
class Rig:
    """A simulator and the webhook it posts to, without the pipeline."""

    provider: Provider
    receiver: Receiver
    url: str

    async def log(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        async with aiohttp.ClientSession(self.url) as session:
            after = 0
            while True:
                async with session.get("/_log", params={"after": str(after), "limit": "7"}) as response:
                    page = await response.json()
                if not page["lines"]:
                    return lines
                lines += page["lines"]
                after = page["next"]

    async def control(self, path: str, **knobs: Any) -> tuple[int, Any]:
        return await self.post(path, knobs)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession(self.url) as session, session.post(path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession(self.url) as session, session.get(path, headers=headers) as answer:
            return answer.status, await answer.json()

    async def advance_clock(self, seconds: float) -> None:
        """Moves the provider's clock forward."""
        assert (await self.control("/_control/clock", advance_seconds=seconds))[0] == 200


@dataclass(frozen=True, slots=True)
class ConnectedRig(Rig):
    """A rig and our own connector that calls it."""

    connector: Connector


@asynccontextmanager
async def rig(
    channel: str,
    *,
    seed: int = 1,
    log: Path | None = None,
    limits: ProviderLimits = NONE,
    receiver: Receiver | None = None,
    is_local: bool = False,
    **knobs: float,
) -> AsyncIterator[Rig]:
    """Runs a simulator and a webhook during the block. `limits` are off by default, so that a test has only those it is about."""
    receiver = receiver or Receiver()
    runner = web.ServerRunner(web.Server(receiver.take, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhook"
    misbehaviour = Misbehaviour().changed(QUICK | knobs)
    provider: Provider
    if channel == "telegram":
        provider = TelegramSimulator(
            token=BOT_TOKEN,
            webhook_secret=HOOK_SECRET,
            webhook_url=webhook_url,
            misbehaviour=misbehaviour,
            limits=limits,
            seed=seed,
            log=Log(log),
            is_local=is_local,
        )
    else:
        is_whatsapp = channel == "whatsapp"
        kind: type[WhatsAppSimulator | InstagramSimulator] = WhatsAppSimulator if is_whatsapp else InstagramSimulator
        provider = kind(
            account=ACCOUNT if is_whatsapp else IG_ACCOUNT,
            token=TOKEN if is_whatsapp else IG_TOKEN,
            app_secret=APP_SECRET,
            webhook_url=webhook_url,
            misbehaviour=misbehaviour,
            limits=limits,
            seed=seed,
            log=Log(log),
        )
    try:
        async with running(provider, "127.0.0.1", 0) as port:
            yield Rig(provider, receiver, f"http://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected_rig(channel: str, *, refusals: int = 0, **options: Any) -> AsyncIterator[ConnectedRig]:
    """A rig whose calls and webhooks go through our connector of the channel."""
    reader: Connector = (
        TelegramConnector(url="http://unused", token=BOT_TOKEN, webhook_secret=HOOK_SECRET)
        if channel == "telegram"
        else WhatsAppConnector(
            url="http://unused", version="v23.0", account=ACCOUNT, token="", app_secrets=(APP_SECRET,)
        )
    )
    async with rig(channel, receiver=Receiver(reader, refusals), **options) as at:
        connector: Connector = (
            TelegramConnector(url=at.url, token=BOT_TOKEN, timeout_seconds=2)
            if channel == "telegram"
            else WhatsAppConnector(
                url=at.url, version="v23.0", account=ACCOUNT, token=TOKEN, timeout_seconds=2, tracker_keys=TRACKER_KEYS
            )
        )
        try:
            yield ConnectedRig(at.provider, at.receiver, at.url, connector)
        finally:
            await connector.close()
            await reader.close()


def delivery(channel: str, number: int, address: str = "15551234567", text: str | None = None) -> Delivery:
    return Delivery(
        delivery_id=f"dlv-{number}",
        message_id=f"msg-{number}",
        conversation_id="conv-1",
        home_partition=3,
        seq=number,
        channel=channel,
        account="",
        recipient=address,
        address=address,
        kind="text",
        text=f"[msg-{number}] olá 🌻" if text is None else text,
        requested_at=0,
        accepted_at=0,
    )
