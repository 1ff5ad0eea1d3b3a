"""From a posted receipt to the view: how long it takes until table `timelines` of a worker shows what the receipt says.

Enters: a folder. Leaves: delays in milliseconds. On a stack of its own, messages go to the WhatsApp simulator, which posts no receipt of
its own. Then receipts of arrival are posted, RATE a second, each in a request. Every second one carries its tracker; for the others stage
match has to find the delivery. Of every WATCHED receipts one is watched: the view is asked every ASK_SECONDS until it shows the arrival. A
delay is from the first byte posted to the answer that shows it, so it is never too short.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from confluent_kafka import Producer

from benchmarks.receipts import webhooks_posted
from cli.dev_stack import compose
from schemas import codec, tracker
from schemas.keys import key_of
from schemas.partitions import home_partition
from schemas.records import Delivery, Message, Recipient
from schemas.settings import Settings, use_state
from stack import control
from stack.plan import Process
from stack.state import read_state, state_path

RATE = 100.0
WATCHED = 10
ASK_SECONDS = 0.01
WARM_UP_SECONDS = 5.0
ARRIVE_SECONDS = 90.0
LATEST_SECONDS = 10.0  # a receipt that is not visible by then ends the benchmark
CONNECTIONS = 16  # that post
CONVERSATIONS = 500
NEVER_MS = 3_600_000  # the longest delay that a simulator accepts; the stack does not run for so long


@dataclass(frozen=True, slots=True)
class Seen:
    """A receipt that the view has shown."""

    by_tracker: bool
    ms: float


def measured(folder: Path, seconds: float) -> list[Seen]:
    """Blocks until all are seen. Ends the process if a receipt is refused or not seen in time."""
    with _stack(folder) as settings:
        count = int((WARM_UP_SECONDS + seconds) * RATE)
        _produce(settings, count)
        sent = _sent(settings, count)
        state = read_state(folder)
        urls = {service.name: service.parts for service in state.services} if state else {}
        seen = asyncio.run(_posted(settings, sent, urls["gateway"]["webhooks"], urls["core"]["views"]))
        return seen[int(WARM_UP_SECONDS * RATE / WATCHED) :]


async def _posted(settings: Settings, sent: Sequence[Delivery], gateway: str, views: str) -> list[Seen]:
    secret = settings.whatsapp_app_secrets.get_secret_value()
    keys = tracker.keys_in(settings.tracker_keys.get_secret_value())
    loop = asyncio.get_running_loop()
    watching: list[asyncio.Task[Seen]] = []
    posting: set[asyncio.Task[None]] = set()
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as poster,
        aiohttp.ClientSession() as viewer,
    ):
        began = loop.time()
        for number, delivery in enumerate(sent):
            await asyncio.sleep(began + number / RATE - loop.time())
            by_tracker = number // WATCHED % 2 == 0
            tracked = tracker.encode(delivery, 1, keys) if by_tracker else None
            head, _, body = _webhook(delivery, tracked, secret).partition(b"\r\n\r\n")
            posted = loop.time()
            task = loop.create_task(_post(poster, gateway, head, body))
            posting.add(task)
            task.add_done_callback(posting.discard)
            if number % WATCHED == 0:
                watching.append(
                    loop.create_task(_watched(viewer, views, delivery.delivery_id, posted, by_tracker=by_tracker))
                )
        return list(await asyncio.gather(*watching))


def _webhook(delivery: Delivery, tracked: str | None, secret: str) -> bytes:
    status = webhooks_posted.status(delivery.text, "delivered", int(time.time()), tracked)
    return webhooks_posted.request(delivery.account, [status], secret)


async def _post(session: aiohttp.ClientSession, gateway: str, head: bytes, body: bytes) -> None:
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    async with session.post(gateway + webhooks_posted.PATH, data=body, headers=headers) as answer:
        if answer.status != 200:
            raise SystemExit(f"a receipt was answered {answer.status}")


async def _watched(
    session: aiohttp.ClientSession, views: str, delivery_id: str, posted: float, *, by_tracker: bool
) -> Seen:
    loop = asyncio.get_running_loop()
    while loop.time() - posted < LATEST_SECONDS:
        async with session.get(f"{views}/tables/timelines/{delivery_id}") as answer:
            found: dict[str, Any] = await answer.json() if answer.status == 200 else {}
        if found and found["row"]["delivered_at"] is not None:
            return Seen(by_tracker, (loop.time() - posted) * 1000)
        await asyncio.sleep(ASK_SECONDS)
    raise SystemExit(f"no figure: a receipt was not visible after {LATEST_SECONDS:.0f} s")


def _produce(settings: Settings, count: int) -> None:
    producer = Producer({**settings.kafka.settings("bench"), "partitioner": "murmur2_random", "linger.ms": 5})
    for number in range(count):
        message = Message(
            message_id=f"seen-{number}",
            conversation_id=f"seen-{number % CONVERSATIONS}",
            sender="shop",
            recipients=(Recipient(channel="whatsapp", address=f"1555{number % CONVERSATIONS:07d}"),),
            text=f"[seen-{number % CONVERSATIONS}/seen-{number}] hello",
            requested_at=time.time_ns() // 1_000_000,
        )
        producer.produce("messages", codec.encode(message), key_of(message))
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("Kafka did not acknowledge the messages within 60 s")


def _sent(settings: Settings, count: int) -> list[Delivery]:
    """The deliveries once the provider has accepted all, with what a receipt needs; `text` has the provider's id."""
    query = (
        "select delivery_id, conversation_id, account, provider_message_id from deliveries"
        " where conversation_id like 'seen-%' and sent_at is not null order by message_id"
    )
    end = time.monotonic() + ARRIVE_SECONDS
    with psycopg.connect(settings.postgres_url, autocommit=True, connect_timeout=10) as connection:
        while len(rows := connection.execute(query).fetchall()) < count:
            if time.monotonic() > end:
                raise SystemExit(f"no figure: {len(rows)} of {count} messages were sent in {ARRIVE_SECONDS:.0f} s")
            time.sleep(0.5)
    return [_delivery(*row, partitions=settings.partitions) for row in rows]


def _delivery(delivery_id: str, conversation_id: str, account: str, provider_id: str, *, partitions: int) -> Delivery:
    return Delivery(
        delivery_id=delivery_id,
        message_id="-",
        conversation_id=conversation_id,
        home_partition=home_partition(conversation_id, partitions),
        seq=1,
        channel="whatsapp",
        account=account,
        recipient="",
        address="",
        kind="text",
        text=provider_id,
        requested_at=0,
        accepted_at=0,
    )


@contextmanager
def _stack(folder: Path) -> Iterator[Settings]:
    plan = compose(folder)
    processes = [_silent(each) if each.name == "simulators" else each for each in plan.processes]
    try:
        control.start(folder, replace(plan, processes=processes))
        yield use_state(state_path(folder))
    finally:
        control.stop(folder)


def _silent(simulators: Process) -> Process:
    """The simulators with receipts that are too late to be seen."""
    argv = ["--early=0" if each.startswith("--early=") else each for each in simulators.argv]
    at = argv.index("whatsapp") + 1
    return replace(simulators, argv=[*argv[:at], f"--receipt-delay-ms={NEVER_MS}", *argv[at:]])
