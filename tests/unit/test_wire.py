"""The lean HTTP client of the simulators reads answers as they come: in pieces, chunked, without length, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.providers.wire import Reply, parsed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n2\r\nno\r\n0\r\n\r\n"
)
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Content-Length: 9\r\n\r\nwhatever"


def test_answers_end_as_they_say() -> None:
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
