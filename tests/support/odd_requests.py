"""Odd HTTP requests as bytes: with odd bodies, query values, paths, methods and headers.

All functions are pure except `status_of`, which sends one to a port and reads the first line of the answer.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

DIGITS = "9" * 5000
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PARTS = {"Content-Type": "multipart/form-data; boundary=a"}
_PART = b'--a\r\nContent-Disposition: form-data; name="x"'
_DEEP = "[" * 100_000 + "]" * 100_000

BODIES: Mapping[str, tuple[Mapping[str, str], bytes]] = {
    "a deep list": (JSON, _DEEP.encode()),
    "a deep list that ends early": (JSON, b"[" * 100_000),
    "a deep object": (JSON, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep with half a letter": (JSON, b'["\\ud800",' + b"[" * 50_000 + b"]" * 50_001),
    "deep in a text": (JSON, json.dumps({"schema": _DEEP}).encode()),
    "a charset that is none": ({"Content-Type": "application/json; charset=bogus"}, b'{"schema":"{}"}'),
    "a charset that is no text": ({"Content-Type": "application/json; charset=rot13"}, b'{"schema":"{}"}'),
    "a charset that does not fit": ({"Content-Type": "application/json; charset=utf-16"}, b'{"schema":"{}"}x'),
    "a form of a charset that is none": ({"Content-Type": f"{FORM['Content-Type']}; charset=bogus"}, b"a=b"),
    "not UTF-8": (JSON, b'{"schema":"\xff\xfe"}'),
    "a form that is not UTF-8": (FORM, b"a=%ff%fe&chat_id=" + DIGITS.encode()),
    "digits": (JSON, DIGITS.encode()),
    "digits in a text": (JSON, json.dumps({"schema": DIGITS}).encode()),
    "digits in an object": (JSON, b'{"advance_seconds":' + DIGITS.encode() + b"}"),
    "a large number": (JSON, b'{"advance_seconds":1e308}'),
    "a large number below zero": (JSON, b'{"offset_seconds":-99999999999999999999}'),
    "no number": (JSON, b'{"advance_seconds":NaN}'),
    "a list": (JSON, b"[]"),
    "null": (JSON, b"null"),
    "zero bytes": (JSON, bytes(100)),
    "parts without a boundary": ({"Content-Type": "multipart/form-data"}, b"xx"),
    "parts of another boundary": (PARTS, b"--b\r\n\r\nxx"),
    "a part that ends early": (PARTS, _PART + b"\r\n\r\nxx"),
    "a part encoded as none": (PARTS, _PART + b"\r\nContent-Transfer-Encoding: bogus\r\n\r\nxx\r\n--a--\r\n"),
    "a part of a charset that is none": (
        PARTS,
        _PART + b"\r\nContent-Type: text/plain; charset=bogus\r\n\r\nxx\r\n--a--\r\n",
    ),
    "a part that is not UTF-8": (PARTS, _PART + b"\r\n\r\n\xff\xfe\r\n--a--\r\n"),
    "not compressed as it says": (JSON | {"Content-Encoding": "gzip"}, b"{}"),
    "not lz4 as it says": (JSON | {"Content-Encoding": "lz4"}, b"{}"),
    "an unknown compression": (JSON | {"Content-Encoding": "bogus"}, b"{}"),
    "a length below zero": (JSON | {"Content-Length": "-1"}, b"{}"),
    "a length of digits": (JSON | {"Content-Length": DIGITS}, b"{}"),
    "chunks that are none": (JSON | {"Transfer-Encoding": "chunked"}, b"zz\r\n\r\n"),
}
VALUES = (
    DIGITS.encode(), b"9" * 25, b"-1", b"1e9", b"1_0", b"+1+", b"", b"1,2,", b"x", b"1,x", b"%D9%A3", b"%C2%B2", b"%FF", b"%00", b"%",
    b"%zz", b"\xff\xfe", b"1&{name}=2",
)  # fmt: skip  # a list of values
PATHS = (
    b"/%", b"/%zz", b"/%00", b"/%ff%fe", b"/%C3%28", b"/%2e%2e/%2e%2e/etc/passwd", b"/..", b"//", b"/" * 3000, b"/" + b"a" * 7000,
    b"/" + b"a" * 9000, b"/\xff\xfe", b"/a%0d%0ab", b"/" + b"%F0%9F%91%A8" * 500,
)  # fmt: skip  # a list of paths
METHODS = ("DELETE", "PUT", "PATCH", "BREW", "get")


class Door(NamedTuple):
    """One of our HTTP servers: where bodies are posted, which paths have others below them, and which paths read which query parameters."""

    port: int
    posts: Sequence[str]
    below: Sequence[str] = ("",)
    queries: Mapping[str, Sequence[str]] = {}
    headers: Mapping[str, str] = {}
    app_secret: str = ""  # signs bodies as Meta does, so that the server reads them


def requests(door: Door) -> Iterator[tuple[str, bytes]]:
    """Every odd request to the server, by name."""
    for path in door.posts:
        for label, (headers, body) in BODIES.items():
            for method in ("POST", "GET"):
                signature = hmac.new(door.app_secret.encode(), body, hashlib.sha256).hexdigest()
                given = {"X-Hub-Signature-256": f"sha256={signature}", **door.headers, **headers}
                yield f"{method} {path}: {label}", _request(method, path.encode(), given, body)
        for method in METHODS:
            yield f"{method} {path}", _request(method, path.encode(), door.headers)
        yield f"{path}: a huge header", _request("GET", path.encode(), {**door.headers, "X-Odd": "a" * 9000})
        yield f"{path}: a header that is not ASCII", _request("GET", path.encode(), {**door.headers, "X-Odd": "\xff"})
    for path in door.below:
        for odd in PATHS:
            yield f"below {path}: {odd[:20]!r}", _request("GET", path.encode() + odd, door.headers)
    for path, names in door.queries.items():
        for name in names:
            for value in VALUES:
                query = name.encode() + b"=" + value.replace(b"{name}", name.encode())
                yield f"{path}?{query[:40]!r}", _request("GET", path.encode() + b"?" + query, door.headers)


def _request(method: str, target: bytes, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = {"Host": "localhost", "Connection": "close", **headers}
    if "Transfer-Encoding" not in lines:
        lines.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
    return method.encode() + b" " + target + b" HTTP/1.1\r\n" + head + b"\r\n" + body


async def status_of(port: int, request: bytes) -> int:
    """The status of the answer; 0 when the server closes the connection without one."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            line = await reader.readline()
        except ConnectionError:
            return 0
        finally:
            writer.close()
    return int(line.split()[1]) if line.startswith(b"HTTP/") else 0
