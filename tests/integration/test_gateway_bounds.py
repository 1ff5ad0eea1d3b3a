"""The gateway's limits: sizes, times, connections and rates, on real sockets. No item reaches Kafka here."""

import asyncio
import gc
import gzip
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import structlog.testing

from connectors.base import Connector
from connectors.internal.connector import InternalConnector
from connectors.telegram.connector import TelegramConnector
from connectors.whatsapp.connector import WhatsAppConnector
from pipelines.acknowledged_producer import AcknowledgedProducer
from pipelines.gateway import Gateway
from pipelines.serving import listener
from pipelines.serving.connections import Connection
from pipelines.serving.denials import Denials
from pipelines.serving.request_limits import RequestLimits
from schemas import metrics
from schemas.client_tokens import ClientToken
from schemas.kafka_access import KafkaAccess
from tests.support.running_simulators import ACCOUNT, APP_SECRET, BOT_TOKEN, HOOK_SECRET

CLIENT_TOKEN = "token-of-a-client"
VERIFY_TOKEN = "token-of-the-subscription"
SIGNED = "sha256=" + "0" * 64  # has the form of a signature, but is wrong
SECRETIVE = b'{"text": "secret-words"}'


class Answer(NamedTuple):
    """An answer of the gateway; status 0 when it closed the connection."""

    status: int
    headers: dict[str, str]


class Line:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))

    async def answer(self, seconds: float = 10.0) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                head = await self._reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
                }
                await self._reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return Answer(0, {})
        return Answer(int(lines[0].split()[1]), headers)

    async def is_closed(self, seconds: float = 10.0) -> bool:
        """Waits until the gateway has closed the connection."""
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.read() == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._writer.close()


class Served(NamedTuple):
    """A gateway with the limits of the test."""

    gateway: Gateway
    port: int
    lines: list[Line]

    async def line(self, address: str = "127.0.0.1") -> Line:
        made = Line(*await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0)))
        self.lines.append(made)
        return made

    async def ask(self, *parts: bytes) -> Answer:
        line = await self.line()
        line.send(*parts)
        answer = await line.answer()
        line.close()
        return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the gateway has no event for it
            await asyncio.sleep(0.01)


def head(channel: str, length: int | None, **headers: str) -> bytes:
    lines = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if length is None:
        lines["Transfer-Encoding"] = "chunked"
    else:
        lines["Content-Length"] = str(length)
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /webhooks/{channel} HTTP/1.1\r\n{fields}\r\n".encode()


def signed(body: bytes, **more: str) -> bytes:
    """A whole request as Meta makes it."""
    signature = "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return head("whatsapp", len(body), X_Hub_Signature_256=signature, **more) + body


@asynccontextmanager
async def served(kafka_url: str, **bounds: Any) -> AsyncIterator[Served]:
    connectors: dict[str, Connector] = {
        "whatsapp": WhatsAppConnector(
            url="http://unused", version="v23.0", account=ACCOUNT, app_secrets=(APP_SECRET,), verify_token=VERIFY_TOKEN
        ),
        "telegram": TelegramConnector(url="http://unused", token=BOT_TOKEN, webhook_secret=HOOK_SECRET),
        "internal": InternalConnector(
            account="app", tokens=(ClientToken(CLIENT_TOKEN, "default", frozenset({"ana"})),)
        ),
    }
    gateway = Gateway(
        connectors=connectors,
        producer=AcknowledgedProducer(KafkaAccess(kafka_url), asyncio.get_running_loop()),
        partitions=1,
        bounds=RequestLimits(**bounds),
    )
    async with listener.bounded(gateway.app, gateway.limits, "127.0.0.1", 0) as port:
        made = Served(gateway, port, [])
        try:
            yield made
        finally:
            for line in made.lines:
                line.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "bogus"])
async def test_a_compressed_body_is_refused_before_it_is_read(kafka_url: str, encoding: str) -> None:
    async with served(kafka_url) as at:
        asked = head("whatsapp", 5_000, X_Hub_Signature_256=SIGNED, Content_Encoding=encoding)
        assert (await at.ask(asked)).status == 415


@pytest.mark.parametrize("path", ["/metrics", "/health", "/subjects", "/schemas/ids/1002"])
async def test_probes_and_schemas_are_not_on_the_port_of_webhooks(kafka_url: str, path: str) -> None:
    async with served(kafka_url) as at:
        assert (await at.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())).status == 404


async def test_nothing_is_inflated(kafka_url: str) -> None:
    """A signed bomb of 50 MB arrives together with its head: aiohttp passes on the compressed bytes."""
    bomb = gzip.compress(bytes(50_000_000))
    async with served(kafka_url) as at:
        assert (await at.ask(signed(bomb, Content_Encoding="gzip"))).status == 415
        assert (await at.ask(signed(bomb))).status == 200, "bytes that are no JSON contain no items"
        assert at.gateway.limits.bodies.held == 0


async def test_a_body_is_refused_by_its_declared_or_its_received_size(kafka_url: str) -> None:
    async with served(kafka_url) as at:
        assert (await at.ask(head("whatsapp", 300_000_000, X_Hub_Signature_256=SIGNED))).status == 413
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        assert (await at.ask(head("whatsapp", None, X_Hub_Signature_256=SIGNED), chunk * 60)).status == 413
        assert (await at.ask(signed(bytes(3 * 1024 * 1024)))).status == 200
        assert at.gateway.limits.bodies.held == 0


@pytest.mark.parametrize(
    "asked",
    [
        head("whatsapp", 2_900_000),
        head("whatsapp", 2_900_000, X_Hub_Signature_256="sha1=" + "0" * 40),
        head("telegram", 2_900_000, X_Telegram_Bot_Api_Secret_Token="wrong"),
        head("internal", 2_900_000, Authorization="Bearer wrong"),
        head("whatsapp", 2_900_000, Expect="100-continue"),
    ],
    ids=["unsigned", "an odd signature", "telegram", "internal", "expect 100-continue"],
)
async def test_what_the_headers_show_is_refused_before_the_body_is_read(kafka_url: str, asked: bytes) -> None:
    async with served(kafka_url) as at:
        assert (await at.ask(asked)).status == 401


async def test_expect_100_continue_is_answered(kafka_url: str) -> None:
    async with served(kafka_url) as at:
        whole = signed(b"{}", Expect="100-continue")
        line = await at.line()
        line.send(whole.removesuffix(b"{}"))
        assert (await line.answer()).status == 100
        line.send(b"{}")
        assert (await line.answer()).status == 200


async def test_a_body_has_its_time(kafka_url: str) -> None:
    async with served(kafka_url, body_seconds=0.5) as at:
        assert (await at.ask(head("whatsapp", 100, X_Hub_Signature_256=SIGNED), b"{")).status == 408


async def test_a_head_has_its_time_and_so_has_silence(kafka_url: str) -> None:
    async with served(kafka_url, head_seconds=0.5) as at:
        silent, slow = await at.line(), await at.line()
        slow.send(b"POST /webhooks/whatsapp HTTP/1.1\r\nHost: localhost\r\n")
        assert await silent.is_closed()
        assert (await slow.answer()).status == 408
        assert await slow.is_closed()


async def test_a_connection_stays_between_two_requests_but_not_for_ever(kafka_url: str) -> None:
    async with served(kafka_url, head_seconds=0.3, idle_seconds=2.0) as at:
        line, slow = await at.line(), await at.line()
        for each in (line, slow):
            each.send(signed(b"{}"))
            assert (await each.answer()).status == 200
        slow.send(b"POST /webhooks/whatsapp")
        assert (await slow.answer(1.5)).status == 408, "the time-out for heads applies to a second request too"
        line.send(signed(b"{}"))
        assert (await line.answer()).status == 200, "idle for longer than the time-out for heads"
        assert await line.is_closed()


async def test_an_endless_head_is_cut(kafka_url: str) -> None:
    async with served(kafka_url) as at:
        lines = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 200) for number in range(100))
        assert (await at.ask(b"POST /webhooks/whatsapp HTTP/1.1\r\nHost: a\r\n" + lines)).status == 431


async def test_a_head_that_is_too_long_is_refused_also_when_it_arrives_at_once(kafka_url: str) -> None:
    """aiohttp limits each line and their number; up to 64 KiB of them arrive at once."""
    async with served(kafka_url) as at:
        long = {f"X-{number}": "a" * 400 for number in range(38)}
        assert (await at.ask(head("whatsapp", 0, X_Hub_Signature_256=SIGNED, **long))).status == 401
        longer = {f"X-{number}": "a" * 400 for number in range(42)}
        assert (await at.ask(head("whatsapp", 0, X_Hub_Signature_256=SIGNED, **longer))).status == 431


async def stuffed(at: Served, *, to_the_brim: bool) -> tuple[Line, Connection]:
    """A connection whose sender reads no answer: some answers wait in the gateway, or so many that it pauses."""
    with socket.socket() as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.setblocking(False)
        await asyncio.get_running_loop().sock_connect(asking, ("127.0.0.1", at.port))
        line = Line(*await asyncio.open_connection(sock=asking.dup(), limit=1))
    at.lines.append(line)
    [served] = [each for each in gc.get_objects() if isinstance(each, Connection) and each.transport is not None]
    transport = cast("asyncio.Transport", served.transport)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    asked = 0

    def is_answered() -> bool:
        return served.writing_paused or (served._request_count == asked and not served._request_in_progress)

    while not (served.writing_paused if to_the_brim else transport.get_write_buffer_size()):
        line.send(head("whatsapp", 0))
        asked += 1
        await until(is_answered)
    return line, served


async def test_unread_answers_hold_no_connection_for_ever(kafka_url: str) -> None:
    """Closing waits until everything is sent. A sender that reads nothing would keep the socket, and it would not be counted."""
    async with served(kafka_url, idle_seconds=0.5, unproven_by_address=0) as at:
        _, connection = await stuffed(at, to_the_brim=False)
        own = cast("asyncio.Transport", connection.transport).get_extra_info("socket").fileno()
        await until(lambda: not Path(f"/proc/self/fd/{own}").exists())


async def test_a_head_has_its_size_also_while_an_answer_is_not_taken(kafka_url: str) -> None:
    async with served(kafka_url, unproven_by_address=0) as at:
        line, connection = await stuffed(at, to_the_brim=True)
        line.send(b"POST /webhooks/whatsapp HTTP/1.1\r\nHost: a\r\n", *[b"X: %s\r\n" % (b"a" * 8000)] * 100)
        await until(lambda: connection.transport is None)


async def test_bodies_share_memory_and_the_oldest_is_refused(kafka_url: str) -> None:
    """Bytes count as they arrive: ten bodies that declare 3 MB and send 1 MB are 10 MB; the bound is 4 MB."""
    async with served(kafka_url, bodies_bytes=4_000_000) as at:
        held = []
        for _ in range(10):
            line = await at.line()
            line.send(head("whatsapp", 3_000_000, X_Hub_Signature_256=SIGNED), bytes(1_000_000))
            held.append(line)
            few = 900_000 * min(len(held), 4)
            await until(lambda: at.gateway.limits.bodies.held >= few)  # noqa: B023  # awaited here
            assert at.gateway.limits.bodies.held <= 4_000_000
            assert (await at.ask(signed(b"{}"))).status == 200, "a usual webhook is accepted"
        answer = await held[0].answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await at.ask(signed(bytes(2_000_000)))).status == 200, "and so is a large one that is sent at once"
        for line in held:
            line.close()
        await until(lambda: not at.gateway.limits.bodies.held)


@pytest.mark.parametrize("bounds", [{"connections": 5}, {"connections_by_address": 5}])
async def test_the_longest_waiting_connection_is_closed_for_a_new_one(kafka_url: str, bounds: dict[str, int]) -> None:
    async with served(kafka_url, **bounds) as at:
        good = await at.line()
        good.send(signed(b"{}"))
        assert (await good.answer()).status == 200
        silent = [await at.line() for _ in range(4)]
        good.send(signed(b"{}"))
        assert (await good.answer()).status == 200
        silent += [await at.line() for _ in range(4)]
        assert all([await line.is_closed() for line in silent[:4]])
        good.send(signed(b"{}"))
        assert (await good.answer()).status == 200
        assert (await at.ask(signed(b"{}"))).status == 200


@pytest.mark.parametrize("bounds", [{"connections": 5}, {"connections_by_address": 5}])
async def test_an_endless_request_is_closed_for_a_new_connection(kafka_url: str, bounds: dict[str, int]) -> None:
    """Bodies of a byte a second, too small for the shared memory: five of them would keep out all other senders."""
    async with served(kafka_url, **bounds) as at:
        endless = []
        for number in range(5):
            line = await at.line()
            line.send(head("whatsapp", 100, X_Hub_Signature_256=SIGNED), b"{")
            endless.append(line)
            await until(lambda: metrics.GATEWAY_CONNECTIONS._value.get() == number + 1)  # noqa: B023  # awaited here
        assert (await at.ask(signed(b"{}"))).status == 200
        assert await endless[0].is_closed()


async def test_connections_of_another_address_are_not_closed(kafka_url: str) -> None:
    async with served(kafka_url, connections_by_address=2) as at:
        other = await at.line("127.0.0.2")
        silent = [await at.line() for _ in range(3)]
        assert await silent[0].is_closed()
        other.send(signed(b"{}"))
        assert (await other.answer()).status == 200


async def test_unproven_requests_have_a_rate_and_proven_ones_have_none(kafka_url: str) -> None:
    async with served(kafka_url, unproven_by_address=0.5) as at:
        for _ in range(20):
            assert (await at.ask(signed(b"{}"))).status == 200
        assert (await at.ask(head("whatsapp", 0))).status == 401
        for asked in (head("whatsapp", 0), head("telegram", 0), head("none", 0), signed(bytes(20_000))):
            refused = await at.ask(asked)
            assert (refused.status, refused.headers["retry-after"]) == (429, "2")
        assert (await at.ask(signed(b"{}"))).status == 200, "small and signed: refusing it would cost as much"
        by_guess = head("telegram", 2, X_Telegram_Bot_Api_Secret_Token=HOOK_SECRET) + b"{}"
        assert (await at.ask(by_guess)).status == 429, "guesses of a token are limited"
        query = f"hub.mode=subscribe&hub.verify_token={VERIFY_TOKEN}&hub.challenge=1"
        question = f"GET /webhooks/whatsapp?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        assert (await at.ask(question.encode())).status == 429, "also guesses of the verify token"
        other = await at.line("127.0.0.2")
        other.send(signed(b"{}"))
        assert (await other.answer()).status == 200


async def test_what_has_no_path_has_a_rate_whatever_it_expects(kafka_url: str) -> None:
    async with served(kafka_url, unproven_by_address=0.5) as at:
        for expected in ("100-continue", "anything"):
            asked = f"POST /none HTTP/1.1\r\nHost: localhost\r\nExpect: {expected}\r\nContent-Length: 1\r\n\r\n"
            line = await at.line("127.0.0.2" if expected == "anything" else "127.0.0.1")
            line.send(asked.encode(), b"a")
            assert (await line.answer()).status == 404
            line.send(asked.encode(), b"a")
            assert (await line.answer()).status == 429


async def test_an_account_has_a_rate(kafka_url: str) -> None:
    async with served(kafka_url, requests_by_account=0.5) as at:
        assert (await at.ask(signed(b"{}"))).status == 200
        refused = await at.ask(signed(b"{}"))
        assert (refused.status, refused.headers["retry-after"]) == (429, "2")


@pytest.mark.parametrize(
    "forwarded",
    [
        ("203.0.113.1", "203.0.113.9, 203.0.113.1, 127.0.0.3", "203.0.113.2"),
        ("203.0.113.1:4711", "203.0.113.9, 203.0.113.1:4712, 127.0.0.3:4713", "203.0.113.2:4711"),
        ("[2001:db8:1::1]:4711", "203.0.113.9, 2001:db8:1::2, 127.0.0.3", "[2001:db8:2::1]"),
    ],
    ids=["alone", "with ports", "IPv6"],
)
@pytest.mark.parametrize(("proxies", "statuses"), [("127.0.0.0/8", [401, 429, 401]), ("", [401, 429, 429])])
async def test_only_our_own_proxies_name_the_sender(
    kafka_url: str, proxies: str, statuses: list[int], forwarded: tuple[str, ...]
) -> None:
    """The client itself can write the first entry of the header."""
    async with served(kafka_url, unproven_by_address=0.5, proxies=proxies) as at:
        asked = [await at.ask(head("whatsapp", 0, X_Forwarded_For=each)) for each in forwarded]
        assert [answer.status for answer in asked] == statuses


async def test_a_body_that_ends_early_costs_no_traceback(kafka_url: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with served(kafka_url) as at:
            for length, body in ((1_000, SECRETIVE), (None, b"5\r\n" + SECRETIVE), (None, b"zz\r\n" + SECRETIVE)):
                line = await at.line()
                line.send(head("whatsapp", length, X_Hub_Signature_256=SIGNED), body)
                line._writer.write_eof()
                line.close()
            assert (await at.ask(head("whatsapp", None, X_Hub_Signature_256=SIGNED), b"zz\r\n")).status == 400
    assert {(line["event"], line["status"]) for line in logs} == {("request refused", 400)}
    assert "secret-words" not in str(logs)


async def test_a_flood_of_refused_requests_is_a_line_of_each_kind(kafka_url: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with served(kafka_url) as at:
            line = await at.line()
            for _ in range(300):
                line.send(head("whatsapp", len(SECRETIVE), X_Hub_Signature_256=SIGNED), SECRETIVE)
                assert (await line.answer()).status in (401, 429)
    assert [(entry["status"], entry["times"]) for entry in logs] == [(401, 1)]
    assert "secret-words" not in str(logs)


async def test_pipelined_requests_are_answered_in_order(kafka_url: str) -> None:
    async with served(kafka_url) as at:
        line = await at.line()
        line.send(*[signed(b"{}") if number % 2 else head("whatsapp", 2) + b"{}" for number in range(50)])
        assert [(await line.answer()).status for _ in range(50)] == [401, 200] * 25


async def test_a_client_may_not_report_for_another(kafka_url: str) -> None:
    for address, tenant, status in (("ana", "default", 200), ("bob", "default", 403), ("ana", "acme", 403)):
        body = b'{"receipts": [{"delivery_id": "", "address": "%b", "tenant_id": "%b", "status": "seen"}]}' % (
            address.encode(),
            tenant.encode(),
        )
        body = body.replace(b'"delivery_id": ""', b'"delivery_id": "d"')
        async with served(kafka_url) as at:
            asked = head("internal", len(body), Authorization=f"Bearer {CLIENT_TOKEN}")
            assert (await at.ask(asked, body)).status == status


async def test_an_unexpected_error_is_answered_503_and_logged_with_its_place(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(SECRETIVE.decode())

    monkeypatch.setattr(WhatsAppConnector, "parse_webhook", broken)
    with structlog.testing.capture_logs() as logs:
        async with served(kafka_url) as at:
            assert (await at.ask(signed(SECRETIVE))).status == 503
    [line] = [line for line in logs if line["event"] == "request failed"]
    assert (line["error"], line["where"].partition(":")[0].rpartition(".")[2]) == ("ZeroDivisionError", "broken")
    assert "secret-words" not in str(logs)


async def test_an_error_of_the_server_itself_is_logged_with_its_type(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(SECRETIVE.decode())

    monkeypatch.setattr(Denials, "note", broken)
    async with served(kafka_url) as at:
        assert (await at.ask(head("whatsapp", 0))).status == 500
    assert [each.getMessage() for each in caplog.records if each.name == "aiohttp.server"] == [
        "HTTP server failed: ZeroDivisionError"
    ]
