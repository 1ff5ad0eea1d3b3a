"""Every HTTP server of ours answers odd requests with 4xx, or 2xx if they are harmless, never with 5xx or not at all. Afterwards it answers
as before."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from connectors.base import Connector
from connectors.instagram.connector import InstagramConnector
from connectors.internal.connector import InternalConnector
from connectors.telegram.connector import TelegramConnector
from connectors.whatsapp.connector import WhatsAppConnector
from pipelines.acknowledged_producer import AcknowledgedProducer
from pipelines.gateway import Gateway
from pipelines.serving import listener
from pipelines.serving.request_limits import RequestLimits
from schemas.client_tokens import ClientToken
from schemas.kafka_access import KafkaAccess
from simulators.http_server import running
from simulators.internal import InternalSimulator as SimulatedInternal
from simulators.misbehaviour import Misbehaviour
from simulators.provider_log import Log
from stack.ports import free_port
from tests.support.engine_harness import Toy
from tests.support.odd_requests import Door, requests, status_of
from tests.support.running_simulators import (
    ACCOUNT,
    APP_SECRET,
    BOT_TOKEN,
    HOOK_SECRET,
    IG_ACCOUNT,
    IG_TOKEN,
    TOKEN,
    rig,
)

CONTROLS = [f"/_control/{name}" for name in ("faults", "limits", "clock", "schedule", "inbound", "nothing", "")]
CONTROLS += ["/_log", "/_control/health"]
LOG = {"/_log": ("after", "limit")}


async def answers(door: Door, healthy: str) -> None:
    """Sends every odd request. `healthy` is a path that must be answered 200 before and after."""
    for label, request in requests(door):
        status = await status_of(door.port, request)
        assert 200 <= status < 500, f"{label}: {status or 'no answer'}"
    assert await status_of(door.port, plain(healthy)) == 200


def plain(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


async def is_up(port: int, path: str) -> None:
    """Waits until another process answers 200."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                if await status_of(port, plain(path)) == 200:
                    return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def gateway(kafka_url: str) -> AsyncIterator[tuple[int, int]]:
    """The ports of the gateway and of its probes."""
    connectors: dict[str, Connector] = {
        "whatsapp": WhatsAppConnector(
            url="http://unused",
            version="v23.0",
            account=ACCOUNT,
            token="",
            app_secrets=(APP_SECRET,),
            verify_token="verify-token",
        ),
        "instagram": InstagramConnector(
            url="http://unused", version="v23.0", account=IG_ACCOUNT, token="", app_secrets=(APP_SECRET,)
        ),
        "telegram": TelegramConnector(url="http://unused", token=BOT_TOKEN, webhook_secret=HOOK_SECRET),
        "internal": InternalConnector(account="app", tokens=(ClientToken("client-token"),)),
    }
    served = Gateway(
        connectors=connectors,
        producer=AcknowledgedProducer(KafkaAccess(kafka_url), asyncio.get_running_loop()),
        partitions=1,
        bounds=RequestLimits(unproven_by_address=0),
    )
    probes = listener.plain(served.probe, "127.0.0.1", 0)
    async with probes as probe, listener.bounded(served.app, served.limits, "127.0.0.1", 0) as port:
        yield port, probe


async def test_the_gateway(kafka_url: str) -> None:
    webhooks = [f"/webhooks/{channel}" for channel in ("whatsapp", "instagram", "telegram", "internal", "none")]
    query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify-token"
    async with gateway(kafka_url) as (port, _):
        door = Door(
            port,
            webhooks,
            ["", "/webhooks"],
            {"/webhooks/whatsapp": ("hub.mode", "hub.verify_token", "hub.challenge")},
            {"X-Telegram-Bot-Api-Secret-Token": HOOK_SECRET, "Authorization": "Bearer client-token"},
            APP_SECRET,
        )
        await answers(door, f"/webhooks/whatsapp?{query}")


async def test_the_probes_of_the_gateway(kafka_url: str) -> None:
    async with gateway(kafka_url) as (_, port):
        door = Door(
            port,
            ["/subjects/messages-value", "/subjects/none", "/health"],
            ["", "/subjects", "/subjects/messages-value/versions", "/schemas/ids"],
            {"/subjects": ("odd",)},
        )
        await answers(door, "/health")


async def test_a_worker(toy: Toy) -> None:
    port, probe_port = free_port(), free_port()
    toy.command = [sys.executable, "-m", "tests.support.hampered_worker", toy.name]
    toy.start_worker(environment={"CHAT4ALL_WEB_PORT": str(port), "CHAT4ALL_PROBE_PORT": str(probe_port)})
    await is_up(probe_port, "/health")
    door = Door(
        port,
        ["/tables/", "/tables/counts/", "/tables/counts/k", "/exchanges/", "/partitions/"],
        ["", "/tables", "/tables/counts", "/exchanges", "/router/counts"],
        {
            "/tables/counts/": ("limit", "skip", "partition"),
            "/tables/counts/k": ("partitions",),
            "/exchanges/": ("delivery", "since", "until", "limit"),
        },
    )
    await answers(door, "/partitions/")
    await answers(Door(probe_port, ["/metrics", "/health"], ["", "/health", "/metrics"]), "/health")


@pytest.mark.parametrize("channel", ["whatsapp", "instagram"])
async def test_the_simulators_of_meta(channel: str) -> None:
    account, token = (ACCOUNT, TOKEN) if channel == "whatsapp" else (IG_ACCOUNT, IG_TOKEN)
    async with rig(channel) as at:
        node = f"/v23.0/{account}"
        door = Door(
            _port(at.url),
            [*CONTROLS, f"{node}/messages", f"{node}/media", f"{node}/nothing", node],
            ["", node, "/_control"],
            LOG | {node: ("access_token", "fields")},
            {"Authorization": f"Bearer {token}"},
        )
        await answers(door, "/_control/health")


async def test_the_simulator_of_telegram() -> None:
    methods = (
        "sendMessage",
        "sendPhoto",
        "sendMediaGroup",
        "sendLocation",
        "setMessageReaction",
        "getFile",
        "setWebhook",
        "nothing",
    )
    async with rig("telegram") as at:
        bot = f"/bot{BOT_TOKEN}"
        door = Door(
            _port(at.url),
            [*CONTROLS, *(f"{bot}/{method}" for method in methods)],
            ["", bot, "/file" + bot, "/_control"],
            LOG | {f"{bot}/sendMessage": ("chat_id", "text"), f"{bot}/setWebhook": ("url", "max_connections")},
        )
        await answers(door, "/_control/health")


async def test_the_simulator_of_our_clients(kafka_url: str) -> None:
    simulated = SimulatedInternal(
        account="app",
        token="client-token",
        kafka=KafkaAccess(kafka_url),
        webhook_url="http://127.0.0.1:9/",
        misbehaviour=Misbehaviour(),
        seed=1,
        log=Log(None),
    )
    async with running(simulated, "127.0.0.1", 0) as port:
        await answers(Door(port, [*CONTROLS, "/anything"], ["", "/_control"], LOG), "/_control/health")


async def test_the_front_of_clickhouse(tmp_path: Path) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stack.clickhouse_front", "--port", str(port), "--folder", str(tmp_path / "data")),
        env={**os.environ, "CLICKHOUSE_PASSWORD": "of-this-test"},
    )
    try:
        await is_up(port, "/ping")
        names = ("query", "param_x", "max_threads", "database", "default_format", "query_id", "enable_http_compression")
        key = {"X-ClickHouse-Key": "of-this-test"}
        await answers(Door(port, ["/", "/?query=select+1", "/ping"], [""], {"/": names}, key), "/ping")
    finally:
        process.terminate()
        await process.wait()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
