"""The process that makes the calls: `python -m benchmarks.connectors.caller CHANNEL URL --calls N --rounds R | --memory N`.

In pairs of rounds, a bare aiohttp loop posts the bodies that the connector would post, then the connector posts them; or the connector
makes N calls alone and reports its memory after each tenth. Prints one line of JSON. The call log is on, as in production, and goes to
standard error.
"""

import argparse
import asyncio
import gc
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import orjson
import psutil
from yarl import URL

from benchmarks.connectors.channel_costs import deliveries, settings
from connectors.base import Connector
from connectors.http_calls import Answer, HttpCalls
from connectors.registry import CHANNELS
from pipelines import logs
from schemas.outcomes import Accepted
from schemas.records import Delivery

SIDE_BY_SIDE = 64
Posted = tuple[str, bytes, dict[str, str]]


async def spread(items: Iterable[Any], call: Callable[[Any], Awaitable[None]]) -> None:
    """Makes all calls, SIDE_BY_SIDE at a time."""
    shared = iter(items)

    async def one() -> None:
        for item in shared:
            await call(item)

    await asyncio.gather(*(one() for _ in range(SIDE_BY_SIDE)))


async def captured(connector: Connector, wanted: list[Delivery]) -> list[Posted]:
    """The requests that the connector would post, without making a call."""
    calls: HttpCalls = connector._calls  # type: ignore[attr-defined]  # noqa: SLF001  # to post the same bodies without it
    posted: list[Posted] = []

    async def keep(url: str, body: bytes, headers: dict[str, str], **_: object) -> Answer:
        posted.append((url, body, headers))
        return Answer(500, {}, b"")

    original = calls.post
    calls.post = keep  # type: ignore[assignment,method-assign]  # restored below
    for delivery in wanted:
        await connector.send(delivery, 1)
    calls.post = original  # type: ignore[method-assign]  # restores the method
    return posted


async def paired(channel: str, url: str, calls: int, rounds: int) -> list[dict[str, float]]:
    """CPU seconds for one call, of the bare loop and of the connector: one pair for each round."""
    connector = CHANNELS[channel].build(settings(channel, url))
    wanted = deliveries(channel, calls)
    bodies = await captured(connector, wanted)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=256),
        timeout=aiohttp.ClientTimeout(total=10),
        cookie_jar=aiohttp.DummyCookieJar(),
    )

    async def bare(posted: Posted) -> None:
        async with session.post(URL(posted[0], encoded=True), data=posted[1], headers=posted[2]) as response:
            if response.status != 200 or not await response.read():
                raise SystemExit("a bare call was not answered 200")

    async def ours(delivery: Delivery) -> None:
        if not isinstance(await connector.send(delivery, 1), Accepted):
            raise SystemExit("a call of the connector was not accepted")

    _collect_seldom()
    found = []
    for number in range(rounds + 1):  # the first is a warm-up
        pair = {}
        for name, items, call in (("bare", bodies, bare), ("connector", wanted, ours)):
            began, wall = time.process_time(), time.perf_counter()
            await spread(items, call)
            pair[name] = (time.process_time() - began) / calls
            pair[f"{name}_wall"] = (time.perf_counter() - wall) / calls
        found += [pair] if number else []
    await session.close()
    await connector.close()
    return found


def _collect_seldom() -> None:
    """Sets the garbage collector as a worker's engine does (pipelines/engine/worker.py), for both sides."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


async def memory(channel: str, url: str, calls: int) -> list[int]:
    """Resident bytes after each tenth of the calls."""
    connector = CHANNELS[channel].build(settings(channel, url))
    few = deliveries(channel, 1000)
    held = []
    for _ in range(10):
        await spread(
            itertools.islice(itertools.cycle(few), calls // 10), lambda delivery: _accepted(connector, delivery)
        )
        held.append(psutil.Process().memory_info().rss)
    await connector.close()
    return held


async def _accepted(connector: Connector, delivery: Delivery) -> None:
    if not isinstance(await connector.send(delivery, 1), Accepted):
        raise SystemExit("a call of the connector was not accepted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("channel", choices=CHANNELS)
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, default=0)
    chosen = parser.parse_args()
    logs.configure(settings(chosen.channel))
    if chosen.memory:
        found: object = asyncio.run(memory(chosen.channel, chosen.url, chosen.memory))
    else:
        found = asyncio.run(paired(chosen.channel, chosen.url, chosen.calls, chosen.rounds))
    print(orjson.dumps(found).decode())


if __name__ == "__main__":
    main()
