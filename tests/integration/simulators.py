"""Simulated providers and the webhook they talk to, in one process, for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from connectors.base import Connector, Inbound, WebhookRequest
from connectors.telegram import Telegram
from connectors.whatsapp import WhatsApp
from loadgen.providers import telegram, whatsapp
from loadgen.providers.faults import Faults
from loadgen.providers.limits import NONE, Limits
from loadgen.providers.log import Log
from loadgen.providers.provider import Provider
from loadgen.providers.server import running
from schemas.records import Delivery, Receipt

ACCOUNT, TOKEN, APP_SECRET = "106540352242922", "EAA-token", "app-secret"
BOT_TOKEN, HOOK_SECRET = "4242:bot-token", "hook-secret"
QUICK = {"latency_ms": 1.0, "receipt_delay_ms": 5.0}


class Receiver:
    """A webhook that reads with the connector itself, so an unsigned body fails the test; `refusals` answers 503 that often first."""

    def __init__(self, connector: Connector, refusals: int = 0) -> None:
        self.connector = connector
        self.refusals = refusals
        self.bodies: list[bytes] = []
        self.receipts: list[Receipt] = []
        self.inbound: list[Inbound] = []
        self.unrecognised: list[str] = []
        self.changed = asyncio.Event()

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        items = self.connector.parse_webhook(WebhookRequest(request.method, dict(request.query), headers, body), 1)
        if self.refusals > 0:
            self.refusals -= 1
            return web.Response(status=503)
        self.bodies.append(body)
        self.receipts += items.receipts
        self.inbound += items.inbound
        self.unrecognised += items.unrecognised
        self.changed.set()
        return web.Response()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Street:
    """A simulator, the connector that calls it and the webhook it posts to."""

    def __init__(self, provider: Provider, connector: Connector, receiver: Receiver, url: str) -> None:
        self.provider = provider
        self.connector = connector
        self.receiver = receiver
        self.url = url

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
        async with aiohttp.ClientSession(self.url) as session, session.post(path, json=knobs) as response:
            return response.status, await response.json()


@asynccontextmanager
async def street(
    channel: str,
    *,
    seed: int = 1,
    refusals: int = 0,
    log: Path | None = None,
    limits: Limits = NONE,
    **knobs: float,
) -> AsyncIterator[Street]:
    """`limits` are off unless given, so that a test meets only those it is about."""
    reader: Connector = (
        Telegram(url="http://unused", token=BOT_TOKEN, webhook_secret=HOOK_SECRET)
        if channel == "telegram"
        else WhatsApp(url="http://unused", version="v23.0", account=ACCOUNT, token="", app_secrets=(APP_SECRET,))
    )
    receiver = Receiver(reader, refusals)
    runner = web.ServerRunner(web.Server(receiver.take, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhook"
    faults = Faults().changed(QUICK | knobs)
    provider: Provider
    if channel == "telegram":
        provider = telegram.Telegram(
            token=BOT_TOKEN,
            webhook_secret=HOOK_SECRET,
            webhook_url=webhook_url,
            faults=faults,
            limits=limits,
            seed=seed,
            log=Log(log),
        )
    else:
        provider = whatsapp.WhatsApp(
            account=ACCOUNT,
            token=TOKEN,
            app_secret=APP_SECRET,
            webhook_url=webhook_url,
            faults=faults,
            limits=limits,
            seed=seed,
            log=Log(log),
        )
    async with running(provider, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}"
        connector: Connector = (
            Telegram(url=url, token=BOT_TOKEN, timeout_seconds=2)
            if channel == "telegram"
            else WhatsApp(url=url, version="v23.0", account=ACCOUNT, token=TOKEN, timeout_seconds=2)
        )
        try:
            yield Street(provider, connector, receiver, url)
        finally:
            await connector.close()
            await reader.close()
    await runner.cleanup()


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
