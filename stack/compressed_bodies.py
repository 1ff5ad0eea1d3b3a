"""Bodies of HTTP requests and answers in the encodings that ClickHouse and its clients use.

Enters: a body and the name of its Content-Encoding. Leaves: the whole body. Guaranteed: a body of several parts, each compressed by itself,
as clickhouse-connect sends one for each block of rows, is read to its end; one that is cut off or ends in something else is refused, never
read in part. aiohttp's own decoding reads what is there of a gzip or zstd body and says nothing. Pure.
"""

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["compressed", "decompressed", "zstd"]  # zstd: tests need it on every Python


class _Decompressor(Protocol):
    """Of one part; `unused_data` follows it."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(31),  # with gzip's header
    "deflate": zlib.decompressobj,
}
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}
IDENTITY = ("", "identity")
PIECE = 1 << 20  # what a part leaves over is copied, so a body of many parts is given in pieces


def decompressed(body: bytes, encoding: str, piece: int = PIECE) -> bytes:
    """The body that was compressed, in one part or several. An empty body stays empty. Raises ValueError for another encoding, and for a
    body that is not in this encoding from its first byte to its last."""
    encoding = encoding.strip().lower()
    if encoding in IDENTITY:
        return body
    if encoding not in _DECOMPRESSORS:
        raise ValueError(f"Content-Encoding {encoding!a} is not supported: use {', '.join(_DECOMPRESSORS)} or none")
    found: list[bytes] = []
    part, began = None, 0
    for start in range(0, len(body), piece):
        rest = body[start : start + piece]
        while rest:
            if part is None:
                part, began = _DECOMPRESSORS[encoding](), min(start + piece, len(body)) - len(rest)
            try:
                found.append(part.decompress(rest))
            except (zlib.error, zstd.ZstdError, RuntimeError) as error:  # RuntimeError: lz4's
                raise ValueError(f"the body is not {encoding} from byte {began} on: {error}") from error
            rest = b""
            if part.eof:
                rest, part = part.unused_data or b"", None
    if part is not None:
        raise ValueError(f"the body ends within the {encoding} that begins at byte {began}")
    return b"".join(found)


def compressed(body: bytes, accepted: str) -> tuple[bytes, str]:
    """The body in the first encoding of an Accept-Encoding that we have, and its name; else as it is, and ""."""
    for name in accepted.replace(" ", "").split(","):
        if name in _COMPRESSORS:
            return _COMPRESSORS[name](body), name
    return body, ""
