"""The minimal HTTP client of the simulators reads every form of answer: in pieces, chunked, without a length, or none at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.webhook_connections import Connections, Reply, parsed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n2\r\nno\r\n0\r\n\r\n"
)
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Content-Length: 9\r\n\r\nwhatever"


def test_an_answer_ends_where_its_headers_say() -> None:
    assert parsed(OK) == (Reply(200, "OK"), True)
    assert parsed(CHUNKED) == (Reply(503, "Service Unavailable", "7"), True)
    assert parsed(CLOSING) is None
    assert parsed(CLOSING, is_all=True) == (Reply(200, "OK"), False)
    assert parsed(b"HTTP/1.1 204 No Content\r\n\r\n") == (Reply(204, "No Content"), True)
    assert parsed(b"HTTP/1.1 100 Continue\r\n\r\n" + OK) == (Reply(200, "OK"), True)
    assert parsed(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n") == (Reply(200, "OK"), False)


@given(st.integers(0, len(CHUNKED) - 1))
def test_a_piece_of_an_answer_is_no_answer(length: int) -> None:
    assert parsed(CHUNKED[:length]) is None


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_nonsense_is_no_answer(nonsense: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parsed(nonsense)
    with pytest.raises(ValueError, match="no head"):
        parsed(b"", is_all=True)


@asynccontextmanager
async def _server(answers: list[bytes], closes_after: int = 10**9) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers each request with the next of `answers`; closes a connection after `closes_after` requests."""
    requests: list[bytes] = []
    serving: list[asyncio.Task[object] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(closes_after):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                requests.append(head + await reader.readexactly(length))
                writer.write(answers[len(requests) - 1])
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?x=1", requests
    await asyncio.gather(*filter(None, serving))


async def test_a_connection_stays_open_and_is_replaced_when_it_was_closed() -> None:
    async with _server([OK, CHUNKED, OK, OK], closes_after=2) as (url, requests):
        connections = Connections(url)
        replies = []
        for number in range(4):
            replies.append(await connections.post({"X-Number": str(number)}, b"{}", 5))
            await asyncio.sleep(0)
        connections.close()
    assert [reply and reply.status for reply in replies] == [200, 503, 200, 200]
    assert requests[3].startswith(b"POST /hook?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert requests[3].endswith(b"X-Number: 3\r\nContent-Length: 2\r\n\r\n{}")


async def test_many_requests_run_at_the_same_time() -> None:
    async with _server([OK] * 20) as (url, requests):
        connections = Connections(url)
        replies = await asyncio.gather(*(connections.post({}, b"%d" % number, 5) for number in range(20)))
        connections.close()
    assert {reply and reply.status for reply in replies} == {200}
    assert len(requests) == 20


async def test_no_answer_nonsense_and_no_server_give_none() -> None:
    async with _server([b"HTTP/1.1 200", b"SSH-2.0\r\n\r\n"]) as (url, _):
        connections = Connections(url)
        assert await connections.post({}, b"", 0.1) is None
        assert await connections.post({}, b"", 5) is None
        connections.close()
    assert await Connections(url).post({}, b"", 5) is None
