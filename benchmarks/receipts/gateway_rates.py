"""The gateway with its own Kafka beside a bare aiohttp handler: the same client, the same requests, in turn.

Enters: a folder, the number of rounds. Leaves: for each round requests a second of both with one status a request, and statuses a CPU
second of the gateway with 100. The measured process has one core; Kafka and the client have the others. An answer other than 200 ends
the benchmark without a figure. The bare handler refuses a wrong signature, so a 200 of it shows that it has verified one.
"""

import asyncio
import itertools
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.connectors import bare_http
from benchmarks.engine.machine import OTHERS, Process, pinned
from benchmarks.receipts.webhooks_posted import PARTITIONS, account, batch
from pipelines import topics
from schemas import tracker
from schemas.settings import Settings
from stack import kafka_server
from stack.ports import free_port
from stack.service import Child

ONES, HUNDREDS = 6000, 300  # requests a round
DIFFERENT = 4000  # statuses; then they repeat
# A request waits for Kafka as long as the gateway gathers records, so only many at once use its core. One address may have 200.
CONNECTIONS = 190
CONNECTIONS_OF_HUNDREDS = 32
START_SECONDS = 60.0


class Round(NamedTuple):
    bare: float  # requests a second
    gateway: float
    bare_us: float  # microseconds of CPU a request
    gateway_us: float
    statuses: float  # a CPU second of the gateway, at 100 to a request
    statuses_wall: float  # a second


class _Server(NamedTuple):
    process: Process
    port: int


def measured(folder: Path, rounds: int) -> list[Round]:
    """Blocks for about four seconds a round, and some for the start."""
    secret, key = secrets.token_hex(16), secrets.token_hex(32)
    with pinned(OTHERS), _kafka(folder) as kafka, _servers(folder, kafka, secret, key) as (bare, gateway):
        return asyncio.run(_rounds(bare, gateway, rounds, secret, tracker.keys_in(key)))


async def _rounds(bare: _Server, gateway: _Server, rounds: int, secret: str, keys: tracker.Keys) -> list[Round]:
    ones = [batch(number, 1, secret, keys) for number in range(DIFFERENT)]
    hundreds = [batch(first, 100, secret, keys) for first in range(0, DIFFERENT, 100)]
    for server in (bare, gateway):
        await _listening(server)
    found = []
    for number in range(rounds + 1):  # the first is a warm-up
        bare_rate, bare_us = await _posted(bare, ones, ONES, CONNECTIONS)
        rate, us = await _posted(gateway, ones, ONES, CONNECTIONS)
        wall, of_hundred_us = await _posted(gateway, hundreds, HUNDREDS, CONNECTIONS_OF_HUNDREDS)
        if number:
            found.append(Round(bare_rate, rate, bare_us, us, 100 * 1e6 / of_hundred_us, 100 * wall))
    return found


async def _posted(server: _Server, requests: Sequence[bytes], count: int, connections: int) -> tuple[float, float]:
    """Requests a second, and microseconds of CPU a request."""
    loop = asyncio.get_running_loop()
    used, began = server.process.cpu_seconds(), loop.time()
    bad = await bare_http.pump(server.port, itertools.islice(itertools.cycle(requests), count), connections)
    seconds, used = loop.time() - began, server.process.cpu_seconds() - used
    if bad:
        raise SystemExit(f"{bad} of {count} webhooks were not answered 200: {server.process.output()[-500:]}")
    return count / seconds, used / count * 1e6


async def _listening(server: _Server) -> None:
    async with asyncio.timeout(START_SECONDS):
        while not server.process.ended:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
    raise SystemExit(f"a server ended: {server.process.output()[-500:]}")


@contextmanager
def _kafka(folder: Path) -> Iterator[dict[str, Any]]:
    """A broker with our topics; gives the settings of its clients."""
    broker = Child(kafka_server.service(folder / "kafka"))
    broker.start()
    try:
        broker.wait()
        settings = {**broker.service.settings, "partitions": PARTITIONS}
        topics.create(Settings.model_validate(settings))
        yield settings
    finally:
        broker.stop()


@contextmanager
def _servers(folder: Path, kafka: dict[str, Any], secret: str, key: str) -> Iterator[tuple[_Server, _Server]]:
    bare_port, port = free_port(), free_port()
    settings = kafka | {
        "gateway_port": port,
        "gateway_probe_port": free_port(),
        "whatsapp_account": account(0),
        "whatsapp_token": "EAA" + secrets.token_hex(24),
        "whatsapp_app_secrets": secret,
        "whatsapp_verify_token": secrets.token_hex(16),
        "tracker_keys": key,
        "log_format": "json",
    }
    environment = {f"CHAT4ALL_{name.upper()}": str(value) for name, value in settings.items()}
    handler = [sys.executable, "-m", "benchmarks.receipts.bare_handler", str(bare_port), secret]
    started = [Process(handler, {}, folder / "bare.log")]
    try:
        started.append(Process([sys.executable, "-m", "pipelines", "gateway"], environment, folder / "gateway.log"))
        yield _Server(started[0], bare_port), _Server(started[1], port)
    finally:
        for process in started:
            process.stop()
