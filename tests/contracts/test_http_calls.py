"""One call, and every way it can end: each outcome says whether the request left, and the call log says what happened without a secret."""

import asyncio
import gzip
import json
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from connectors.call_log import CALL_LOG, WRITE_TOGETHER, CallLog, LoggedCall
from connectors.http_calls import ANSWER_LIMIT, Answer, ErrorDetails, HttpCalls
from schemas.outcomes import RetryLater, Unknown
from tests.support.builders import examples
from tests.support.raw_server import RawServer, raw_server

SECRET = "4242:secret-of-a-bot"
BODY = b'{"text": "words of a person"}'
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"ok":true}'


def _error_details(answer: Answer) -> ErrorDetails:
    return ErrorDetails(None if answer.status == 200 else "7", answer.headers.get("x-trace"))


def _calls(**changes: Any) -> HttpCalls:
    fields: dict[str, Any] = {
        "channel": "toy",
        "secrets": (SECRET, ""),
        "error_details": _error_details,
        "timeout_seconds": 20,
        "connections": 4,
    }
    return HttpCalls(**(fields | changes))


@pytest.fixture
async def calls() -> AsyncIterator[HttpCalls]:
    made = _calls()
    yield made
    await made.close()


async def _post(calls: HttpCalls, url: str, headers: dict[str, str] | None = None) -> Any:
    return await calls.post(url, BODY, headers or {"Authorization": SECRET}, delivery_id="dlv-1", attempt=2)


def _newest() -> LoggedCall:
    return list(CALL_LOG)[-1]


async def test_an_answer_is_logged_with_its_times_and_ids(calls: HttpCalls, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Trace: A1b2\r\n\r\n{"ok":true}'
    async with raw_server(answer) as server:
        url = server.url.replace("/v1/", f"/bot{SECRET}/") + "?to=15550001"
        result = await _post(calls, url)
    assert isinstance(result, Answer)
    assert result.json() == {"ok": True}
    logged = _newest()
    assert (logged.channel, logged.delivery_id, logged.attempt, logged.method) == (
        "toy",
        "dlv-1",
        2,
        "POST",
    )
    assert (logged.status, logged.error, logged.request_id) == (200, None, "A1b2")
    assert logged.url == server.url.replace("/v1/", "/bot***/")
    assert logged.duration_ms > 0
    assert '"event":"exchange"' in caplog.text
    assert '"delivery_id":"dlv-1"' in caplog.text
    assert not [word for word in (SECRET, "15550001", "words of a person") if word in caplog.text + repr(logged)]


@pytest.mark.parametrize("odd", ["y" * 101, "\u00fc"])
async def test_an_odd_request_id_is_not_kept(calls: HttpCalls, odd: str) -> None:
    async with raw_server(OK.replace(b"\r\n\r\n", f"\r\nX-Trace: {odd}\r\n\r\n".encode(), 1)) as server:
        assert isinstance(await _post(calls, server.url), Answer)
    assert _newest().request_id is None


HUGE = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 50_000_000
BOMB = gzip.compress(b" " * 50_000_000)


# label, what the server writes before it closes the connection, error in the call log, status there
BROKEN_ANSWERS = [
    ("50 MB", HUGE, "too_long", 200),
    (
        "50 MB compressed",
        b"HTTP/1.1 400 X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
        "too_long",
        400,
    ),
    ("closed without an answer", b"", "ServerDisconnectedError", None),
    ("cut in the head", b"HTTP/1.1 200 OK\r\nContent-Le", "ServerDisconnectedError", None),
    ("cut in the body", b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"ok"', "cut_short", 200),
    ("cut in a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "cut_short", 200),
    ("a length that is none", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", "ClientResponseError", None),
    ("not HTTP", b"220 smtp.example ESMTP\r\n", "ClientResponseError", None),
    ("a header without end", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "ClientResponseError", None),
]


@pytest.mark.parametrize(
    ("answer", "name", "status"), [case[1:] for case in BROKEN_ANSWERS], ids=[case[0] for case in BROKEN_ANSWERS]
)
async def test_a_broken_answer_is_unknown(calls: HttpCalls, answer: bytes, name: str, status: int | None) -> None:
    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with raw_server(break_off) as server:
        result = await _post(calls, server.url)
    assert isinstance(result, Unknown)
    assert len(server.requests) == 1, "nothing is sent twice"
    assert (_newest().error, _newest().status) == (name, status)


async def test_malformed_gzip_is_unknown(calls: HttpCalls) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd") as server:
        result = await _post(calls, server.url)
    assert isinstance(result, Unknown)
    assert _newest().status == 200


@examples(60)
@given(garbage=st.binary(max_size=200) | st.binary(max_size=80).map(lambda b: b"HTTP/1.1 200 OK\r\n" + b))
async def test_no_answer_makes_a_call_raise(garbage: bytes) -> None:
    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await writer.drain()
        writer.close()

    calls = _calls()
    async with raw_server(break_off) as server:
        result = await _post(calls, server.url)
    await calls.close()
    assert isinstance(result, Answer | Unknown), "the request left, so it is never RetryLater"


async def test_a_slow_drip_ends_with_the_time_out() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    calls = _calls(timeout_seconds=1)
    async with raw_server(drip) as server:
        result = await _post(calls, server.url)
    await calls.close()
    assert isinstance(result, Unknown)
    assert (_newest().error, _newest().status) == ("timeout", 200)


async def test_a_redirect_is_an_answer_and_not_followed(calls: HttpCalls) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(moved) as server:
        result = await _post(calls, server.url)
    assert isinstance(result, Answer)
    assert result.status == 307
    assert len(server.requests) == 1


async def test_a_kept_connection_closed_at_the_moment_of_the_request_is_unknown(calls: HttpCalls) -> None:
    """The provider may have read the request and acted on it before the connection closed, so it is not sent again."""
    seen: list[int] = []

    async def answer_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[1])
        if len(seen) == 1:
            writer.write(OK)
            await writer.drain()
        else:
            writer.close()

    async with raw_server(answer_once) as server:
        first, second = [await _post(calls, server.url) for _ in range(2)]
    assert isinstance(first, Answer)
    assert isinstance(second, Unknown)
    assert seen[0] == seen[1], "both requests used the same connection"
    assert len(server.requests) == 2


async def test_a_connection_that_closes_while_the_body_is_written_is_unknown() -> None:

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    calls = _calls()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    result = await calls.post(url, b"x" * 1_000_000, {}, delivery_id="dlv-1", attempt=1)
    await calls.close()
    server.close()
    assert isinstance(result, Unknown)


def _context(host: str, **certificate: Any) -> ssl.SSLContext:
    """A server's TLS context with a certificate of an authority that is not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(host, **certificate).configure_cert(context)
    return context


async def _tls_post(calls: HttpCalls, context: ssl.SSLContext) -> tuple[Any, RawServer]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the server's side of a refused handshake
    async with raw_server(OK, context) as server:
        return await _post(calls, server.url), server


async def test_a_certificate_that_is_not_trusted_is_surely_not_sent(calls: HttpCalls) -> None:
    result, server = await _tls_post(calls, _context("localhost"))
    assert isinstance(result, RetryLater)
    assert (result.code, result.throttled) == ("tls", False)
    assert server.requests == []


@pytest.mark.parametrize(
    ("host", "not_after"),
    [("api.example.org", datetime.now(UTC) + timedelta(days=1)), ("localhost", datetime.now(UTC) - timedelta(days=1))],
    ids=["another host's certificate", "an expired certificate"],
)
async def test_a_trusted_authority_is_not_enough(
    host: str, not_after: datetime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The authority is trusted, as one good certificate shows, so the name or the date is what is refused."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    calls = _calls(tls=ssl.create_default_context())
    outcomes = []
    for good in (True, False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued = authority.issue_cert("localhost") if good else authority.issue_cert(host, not_after=not_after)
        issued.configure_cert(context)
        outcomes.append((await _tls_post(calls, context))[0])
    await calls.close()
    assert isinstance(outcomes[0], Answer)
    assert isinstance(outcomes[1], RetryLater)
    assert outcomes[1].code == "tls"


@pytest.mark.parametrize(
    "url", ["", "not a url", "http://", "http://[::1", "ftp://localhost/x", "http://localhost:99999/"]
)
async def test_a_malformed_url_is_surely_not_sent(calls: HttpCalls, url: str) -> None:
    result = await _post(calls, url)
    assert isinstance(result, RetryLater)
    assert result.code == "url"


async def test_a_token_with_a_line_break_is_surely_not_sent(calls: HttpCalls) -> None:
    async with raw_server(OK) as server:
        result = await _post(calls, server.url, {"Authorization": "a\r\nb"})
    assert isinstance(result, RetryLater)
    assert result.code == "url"
    assert server.requests == []


async def test_a_cancelled_call_is_in_the_call_log(calls: HttpCalls) -> None:
    arrived = asyncio.Event()

    async def hang(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with raw_server(hang) as server:
        call = asyncio.create_task(_post(calls, server.url))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (_newest().error, _newest().status) == ("cancelled", None)


def _call(number: int, **changes: Any) -> LoggedCall:
    fields: dict[str, Any] = {
        "started_at": 1_700_000_000_000 + number,
        "duration_ms": 1.5,
        "channel": "toy",
        "delivery_id": f"dlv-{number}",
        "attempt": 1,
        "method": "POST",
        "url": "https://api.example.org/send",
        "status": 200,
        "error": None,
        "request_id": None,
    }
    return LoggedCall(**(fields | changes))


def test_the_log_keeps_the_newest_and_finds_by_time_and_delivery() -> None:
    kept = CallLog(kept=3)
    for number in range(5):
        kept.record(_call(number))
    assert [each["delivery_id"] for each in kept.newest()] == ["dlv-4", "dlv-3", "dlv-2"]
    assert [each["delivery_id"] for each in kept.newest(limit=1)] == ["dlv-4"]
    start = 1_700_000_000_000
    assert [each["delivery_id"] for each in kept.newest(since=start + 3, until=start + 4)] == ["dlv-3"]
    assert kept.newest(delivery_id="dlv-2")[0]["started"] == "2023-11-14T22:13:20.002Z"
    assert kept.newest(delivery_id="dlv-0") == []


def test_only_failures_are_logged_when_only_failures_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    kept = CallLog()
    kept.record(_call(1))
    kept.record(_call(2, status=400, error="100"))
    kept.record(_call(3, status=None, error="timeout"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert [each["error"] for each in kept.newest()] == ["timeout", "100", None]


async def test_lines_are_written_together_and_soon() -> None:
    written: asyncio.Queue[bytes] = asyncio.Queue()
    kept = CallLog()
    kept.write = written.put_nowait
    for number in range(WRITE_TOGETHER):
        kept.record(_call(number))
    together = written.get_nowait()
    assert together.count(b"\n") == WRITE_TOGETHER
    kept.record(_call(64))
    assert written.empty()
    last = await asyncio.wait_for(written.get(), 20)
    found = [json.loads(line)["delivery_id"] for line in (together + last).splitlines()]
    assert found == [f"dlv-{number}" for number in range(65)]


async def test_waiting_lines_are_written_at_the_close_and_a_full_disk_stops_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(CALL_LOG, "write", written.append)
    async with raw_server(OK) as server:
        calls = _calls()
        await _post(calls, server.url)
        await calls.close()
    assert b'"delivery_id":"dlv-1"' in b"".join(written)

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CALL_LOG, "write", full)
    async with raw_server(OK) as server:
        calls = _calls()
        assert isinstance(await _post(calls, server.url), Answer)
        await calls.close()


def test_the_limit_is_far_above_any_answer() -> None:
    assert ANSWER_LIMIT == 1_000_000
