"""The gateway polls a simulated bot: what people write arrives once, whatever ends in between, and it says what keeps updates away."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from connectors.base import Inbound, NotPolled, Polled, WebhookItems
from pipelines import topics
from pipelines.acknowledged_producer import AcknowledgedProducer, OutgoingRecord, RefusedRecord
from pipelines.gateway import Gateway
from pipelines.polling import Poller, PollingState, polling_during
from pipelines.polling_group import NoLongerHeld, PollingGroup
from schemas import codec
from schemas.catalog import TOPICS
from schemas.environment import foreign
from schemas.kafka_access import KafkaAccess
from schemas.records import InboundMessage
from simulators.http_server import running
from simulators.misbehaviour import Misbehaviour
from simulators.provider_log import Log
from simulators.telegram import TelegramSimulator
from stack.ports import free_port
from stack.service import Child
from tests.support.engine_harness import await_true, limit_topic, read_back
from tests.support.own_kafka import own_kafka

SESSION_SECONDS = 3.0
EVENTUALLY_SECONDS = 40.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A Kafka for these tests only, because they stop it and the names of topics are fixed."""
    with own_kafka(tmp_path_factory.mktemp("polling")) as child:
        yield child


class PolledBot:
    """A simulated bot without a webhook, and the gateways that poll it."""

    def __init__(self, kafka_url: str, folder: Path, number: int) -> None:
        self.kafka_url = kafka_url
        self.account = str(number)
        self.token = f"{number}:bot-token-of-tests"
        self.folder = folder
        self.url = ""
        self.written: list[str] = []
        self.gateways: list[subprocess.Popen[bytes]] = []
        self.probes: list[str] = []

    async def post(self, path: str, **body: Any) -> Any:
        return await asyncio.to_thread(_asked, f"{self.url}{path}", json.dumps(body).encode())

    async def call(self, method: str, **fields: Any) -> Any:
        return await self.post(f"/bot{self.token}/{method}", **fields)

    async def write(self, *texts: str) -> None:
        """A person writes these texts."""
        self.written += texts
        chats = ((5 + number % 3, text) for number, text in enumerate(texts))
        await asyncio.gather(*(self.post("/_control/inbound", chat_id=chat, text=text) for chat, text in chats))

    def start(self, **more: str) -> int:
        """Starts a gateway; returns its number."""
        number, probe = len(self.gateways), free_port()
        environment = {
            "CHAT4ALL_KAFKA_URL": self.kafka_url,
            "CHAT4ALL_PARTITIONS": "2",
            "CHAT4ALL_LOG_FORMAT": "json",
            "CHAT4ALL_EXCHANGE_LOG": "failures",
            "CHAT4ALL_GATEWAY_PORT": str(free_port()),
            "CHAT4ALL_GATEWAY_PROBE_PORT": str(probe),
            "CHAT4ALL_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
            "CHAT4ALL_TELEGRAM_URL": self.url,
            "CHAT4ALL_TELEGRAM_TOKEN": self.token,
            "CHAT4ALL_TELEGRAM_POLLING": "true",
            "CHAT4ALL_TRACKER_KEYS": "k" * 32,
            **more,
        }
        with (self.folder / f"gateway-{number}.log").open("wb") as log:
            self.gateways.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pipelines", "gateway"], stdout=log, stderr=log, env=foreign(environment)
                )
            )
        self.probes.append(f"http://127.0.0.1:{probe}")
        return number

    async def started(self, state: str = "polls", **more: str) -> int:
        number = self.start(**more)
        await self.until(lambda: self.state(number) == state, f"gateway {number}: {state}")
        return number

    def state(self, number: int) -> str:
        try:
            return str(_asked(f"{self.probes[number]}/health")["polling"]["telegram"]["state"])
        except OSError:
            return ""

    def lines(self, number: int, event: str) -> list[Any]:
        """The log lines of a gateway with this event."""
        text = (self.folder / f"gateway-{number}.log").read_text(encoding="utf-8")
        return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]

    def texts(self) -> list[str]:
        """The texts of the inbound messages of this bot, in no order."""
        found = [codec.decode(value, InboundMessage) for _, _, value in read_back(self.kafka_url, "inbound") if value]
        return sorted(each.text for each in found if each.account == self.account)

    async def arrived_once(self) -> None:
        """Waits for everything that was written, and checks that nothing came twice."""
        await self.until(lambda: set(self.texts()) >= set(self.written), "what was written")
        assert self.texts() == sorted(self.written)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        end = asyncio.get_running_loop().time() + EVENTUALLY_SECONDS
        while not await asyncio.to_thread(condition):
            assert asyncio.get_running_loop().time() < end, what
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        for number, gateway in enumerate(self.gateways):
            if gateway.poll() is None:
                gateway.send_signal(signal.SIGCONT)
                gateway.kill()
                gateway.wait()
            # pytest shows it of a failed test
            print((self.folder / f"gateway-{number}.log").read_text(encoding="utf-8"))


def _asked(url: str, body: bytes | None = None) -> Any:
    asked = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.load(answer)


@asynccontextmanager
async def bot(broker: Child, folder: Path) -> AsyncIterator[PolledBot]:
    made = PolledBot(broker.service.url, folder, int.from_bytes(os.urandom(4)) + 1)
    simulator = TelegramSimulator(
        token=made.token, webhook_secret="", webhook_url="", misbehaviour=Misbehaviour(), seed=1, log=Log(None)
    )
    try:
        async with running(simulator, "127.0.0.1", 0) as port:
            made.url = f"http://127.0.0.1:{port}"
            try:
                yield made
            finally:
                await asyncio.to_thread(made.stop)
    finally:
        simulator.close()


async def test_what_people_write_arrives_once_and_kafkas_tools_show_no_lag(broker: Child, tmp_path: Path) -> None:
    async with bot(broker, tmp_path) as at:
        await at.write("before the gateway")
        number = await at.started()
        await at.arrived_once()
        await at.write(*(f"t{count}" for count in range(150)))
        await at.arrived_once()
        group = f"chat4all-polling-telegram-{at.account}"
        admin = AdminClient(KafkaAccess(at.kafka_url).settings("test"))
        found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
        shown = _asked(f"{at.probes[number]}/health")["polling"]["telegram"]
        at.gateways[number].terminate()
        assert await asyncio.to_thread(at.gateways[number].wait, 10) == 0
    [offset] = found.topic_partitions
    assert (offset.topic, offset.partition, offset.offset) == (topics.POLLING, 0, 0)
    assert shown["state"] == "polls"


async def test_a_webhook_that_is_set_is_one_line_and_polling_goes_on_when_it_is_deleted(
    broker: Child, tmp_path: Path
) -> None:
    async with bot(broker, tmp_path) as at:
        await at.call("setWebhook", url="https://example.org/hook")
        number = await at.started("webhook_set")
        await at.write("while a webhook is set")
        await at.call("deleteWebhook")
        await at.until(lambda: at.state(number) == "polls", "polling again")
        await at.arrived_once()
    [line] = at.lines(number, "no updates")
    assert (line["level"], line["state"]) == ("warning", "webhook_set")
    assert "deleteWebhook" in line["detail"]
    assert at.token not in json.dumps(line)


async def test_a_polled_channel_has_no_webhook(broker: Child, tmp_path: Path) -> None:
    port = free_port()
    async with bot(broker, tmp_path) as at:
        await at.started(CHAT4ALL_GATEWAY_PORT=str(port))
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(_asked, f"http://127.0.0.1:{port}/webhooks/telegram", b"{}")
        assert (refused.value.code, refused.value.read()) == (404, b"this channel is polled: it has no webhook")


async def test_killed_between_pages_the_next_gateway_goes_on(broker: Child, tmp_path: Path) -> None:
    async with bot(broker, tmp_path) as at:
        for kill in range(3):
            number = await at.started()
            await at.write(*(f"{kill}-{count}" for count in range(20)))
            if kill != 1:  # the second one is killed while updates are coming in
                await at.arrived_once()
            at.gateways[number].kill()
            at.gateways[number].wait()
            await at.write(f"{kill} after")
        await at.started()
        await at.arrived_once()


async def test_killed_inside_a_transaction_nothing_is_lost_or_repeated(broker: Child, tmp_path: Path) -> None:
    """The gateway stops itself after it has produced the records of a page, before it sends the offset."""
    async with bot(broker, tmp_path) as at:
        hampered = tmp_path / "sitecustomize.py"
        hampered.write_text(HAMPERED, encoding="utf-8")
        path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        number = await at.started(PYTHONPATH=path)
        await at.write("in the open transaction")
        await at.until(lambda: bool((tmp_path / "in-transaction").exists()), "an open transaction")
        assert at.texts() == []
        at.gateways[number].kill()
        at.gateways[number].wait()
        await at.write("after it")
        await at.started()
        await at.arrived_once()


HAMPERED = """
import pathlib, time
from pipelines.engine import transactional_producer
def finish(self, positions, group, end):
    self._producer.flush(10)
    pathlib.Path(__file__).with_name("in-transaction").touch()
    time.sleep(600)
transactional_producer.TransactionalProducer.finish = finish
"""


async def test_of_two_gateways_one_polls_and_the_other_takes_over(broker: Child, tmp_path: Path) -> None:
    async with bot(broker, tmp_path) as at:
        first = await at.started()
        second = await at.started("standby")
        await at.write("one", "two")
        await at.arrived_once()
        assert (at.state(first), at.state(second)) == ("polls", "standby")
        at.gateways[first].send_signal(signal.SIGSTOP)  # it is expelled, but does not know it
        await at.write("three")
        await at.until(lambda: at.state(second) == "polls", "a takeover")
        await at.arrived_once()
        at.gateways[first].send_signal(signal.SIGCONT)
        await at.write("four")
        await at.until(lambda: at.state(first) == "standby", "the first one stands by")
        await at.arrived_once()
        at.gateways[second].terminate()  # it leaves the group, so that no session has to time out
        assert await asyncio.to_thread(at.gateways[second].wait, 10) == 0
        await at.until(lambda: at.state(first) == "polls", "the first one again")
        await at.write("five")
        await at.arrived_once()


async def test_while_kafka_is_away_the_provider_keeps_the_updates(broker: Child, tmp_path: Path) -> None:
    async with bot(broker, tmp_path) as at:
        number = await at.started()
        await at.write("before")
        await at.arrived_once()
        broker.stop(timeout_seconds=0)  # killed
        try:
            await at.write("meanwhile")
            await at.until(lambda: at.state(number) in {"not_stored", "standby"}, "a state that shows it")
            assert (await at.call("getWebhookInfo"))["result"]["pending_update_count"] == 1
        finally:
            broker.start()
            broker.wait()
        await at.until(lambda: at.state(number) == "polls", "polling again")
        await at.write("after")
        await at.arrived_once()
        assert len(at.lines(number, "no updates")) <= 1


# --- what keeps updates away -------------------------------------------------------------------------------------------


class FirstThen:
    """A connector that gives these answers, and then no updates."""

    def __init__(self, *answers: Polled | NotPolled) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def poll(self, position: str, wait_seconds: int, now: Callable[[], int]) -> Polled | NotPolled:  # noqa: ARG002  # Polling's signature
        self.asked.append(position)
        if self.answers:
            return self.answers.pop(0)
        await asyncio.sleep(0.2)
        return Polled((), position)


@asynccontextmanager
async def poller(broker: Child, account: str, connector: FirstThen) -> AsyncIterator[PollingState]:
    """A poller in this process, with a real gateway and group, until it has given all its answers."""
    kafka = KafkaAccess(broker.service.url)
    producer = AcknowledgedProducer(kafka, asyncio.get_running_loop())
    gateway = Gateway(connectors={}, producer=producer, partitions=2, polled=frozenset({"telegram"}))
    state = gateway.polling["telegram"]
    group = PollingGroup(kafka, "telegram", account, SESSION_SECONDS)
    asked = len(connector.answers) + 1
    made = Poller(channel="telegram", connector=connector, group=group, made=gateway, state=state)
    async with polling_during([made]):
        async with asyncio.timeout(EVENTUALLY_SECONDS):
            while len(connector.asked) < asked:  # noqa: ASYNC110  # the state has no event
                await asyncio.sleep(0.05)
        yield state
    await producer.close()


def _page(account: str, position: str, *texts: str) -> Polled:
    found = [Inbound("telegram", account, "5", f"5:{text}", "text", text, 1) for text in texts]
    return Polled(tuple(WebhookItems(inbound=(each,)) for each in found), position)


async def test_an_update_of_which_no_record_can_be_made_is_counted_and_the_next_ones_go_on(
    broker: Child, unique: str
) -> None:
    """A connector's items can be stored; this text, which UTF-8 cannot hold, is no connector's."""
    connector = FirstThen(_page(unique, "4@1", "one", "\ud800", "three"), _page(unique, "5@1", "four"))
    with capture_logs() as logged:
        async with poller(broker, unique, connector):
            pass
    found = [codec.decode(value, InboundMessage) for _, _, value in read_back(broker.service.url, "inbound") if value]
    assert sorted(each.text for each in found if each.account == unique) == ["four", "one", "three"]
    assert connector.asked[:3] == ["", "4@1", "5@1"]
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["update not usable"]


async def test_a_failure_that_comes_and_goes_is_one_line(broker: Child, unique: str) -> None:
    down, other = NotPolled("unavailable", "down", 0.01), NotPolled("other_poller", "stop the other program", 0.01)
    connector = FirstThen(*(answer for _ in range(5) for answer in (down, other, Polled((), ""))))
    with capture_logs() as logged:
        async with poller(broker, unique, connector) as state:
            assert state.shown()["detail"] == "updates are fetched from the provider"
    lines = [
        line["state"] for line in logged if line["event"] in {"no updates", "polling"} and line["state"] != "standby"
    ]
    assert lines == ["unavailable", "other_poller", "polls"]


async def test_the_wait_that_a_provider_asks_for_is_kept(broker: Child, unique: str) -> None:
    began = time.monotonic()
    async with poller(broker, unique, FirstThen(NotPolled("throttled", "too fast", 2.0), Polled((), ""))):
        assert time.monotonic() - began >= 2.0


# --- the group ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def group(broker: Child, unique: str) -> Iterator[PollingGroup]:
    """A member of a group that has the partition."""
    made = PollingGroup(KafkaAccess(broker.service.url), "telegram", unique, SESSION_SECONDS)
    await_true(lambda: made.look(0.2), "the partition", 30)
    yield made
    made.close()
    made.leave()


def _letter(refused: RefusedRecord) -> OutgoingRecord:
    return OutgoingRecord("dead-letters", refused.record.key, refused.cause.encode())


def test_the_position_is_kept_with_the_records(broker: Child, group: PollingGroup, unique: str) -> None:
    key = unique.encode()
    assert group.open() == ""
    assert (
        group.store([OutgoingRecord("receipts", key, b"1"), OutgoingRecord("inbound", key, b"2")], "11@7", _letter)
        == []
    )
    assert group.store([], "12@8", _letter) == []  # a page of updates of which no record is made
    assert group.open() == "12@8"
    assert [_values(broker, topic, key) for topic in ("receipts", "inbound")] == [[b"1"], [b"2"]]


def test_what_kafka_can_never_store_is_a_letter_and_the_rest_is_stored(
    broker: Child, group: PollingGroup, unique: str
) -> None:
    """One record is above the declared limit, and one is refused by the broker alone, with the whole batch that it is in."""
    key, admin = unique.encode(), AdminClient(KafkaAccess(broker.service.url).settings("test"))
    limit_topic(admin, "receipts", 900)
    try:
        group.open()
        sizes = (10, 2_200_000, 20, 2_000, 30)
        refused = group.store([OutgoingRecord("receipts", key, b"x" * size) for size in sizes], "11@7", _letter)
    finally:
        limit_topic(admin, "receipts", TOPICS["receipts"].max_bytes)
    assert [(len(each.record.value), each.cause) for each in refused] == [
        (2_200_000, "too_large_for_kafka"),
        (2_000, "too_large_for_kafka"),
    ]
    assert [len(value or b"") for value in _values(broker, "receipts", key)] == [10, 20, 30]
    assert _values(broker, "dead-letters", key) == [b"too_large_for_kafka"] * 2
    assert group.open() == "11@7"


def test_a_gateway_that_lost_the_partition_stores_nothing(broker: Child, group: PollingGroup, unique: str) -> None:
    group.open()
    next_one = PollingGroup(KafkaAccess(broker.service.url), "telegram", unique, SESSION_SECONDS)
    group.leave()
    group.is_held = True  # as if it had not noticed
    await_true(lambda: next_one.look(0.2), "a takeover", 30)
    try:
        assert next_one.open() == ""
        with pytest.raises((NoLongerHeld, RuntimeError)):
            group.store([OutgoingRecord("receipts", unique.encode(), b"late")], "11@7", _letter)
        assert next_one.store([], "12@8", _letter) == []
    finally:
        next_one.close()
        next_one.leave()
    assert _values(broker, "receipts", unique.encode()) == []


def _values(broker: Child, topic: str, key: bytes) -> list[bytes | None]:
    return [value for _, found, value in read_back(broker.service.url, topic) if found == key]
