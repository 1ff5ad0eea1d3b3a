"""Compressed bodies are read to their end, in any number of parts, or refused."""

import gzip
import zlib
from collections.abc import Callable

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.compressed_bodies import PIECE, compressed, decompressed, zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}
encodings = st.sampled_from(sorted(COMPRESS))
pieces = st.sampled_from([1, 7, 100, PIECE])


@given(encodings, st.lists(st.binary(max_size=300), max_size=4), pieces)
def test_a_body_of_any_parts_is_read_whole(encoding: str, parts: list[bytes], piece: int) -> None:
    assert decompressed(b"".join(map(COMPRESS[encoding], parts)), encoding, piece) == b"".join(parts)


@given(encodings, st.lists(st.binary(max_size=300), min_size=1, max_size=3), pieces, st.data())
def test_a_body_that_is_cut_off_is_refused(encoding: str, parts: list[bytes], piece: int, data: st.DataObject) -> None:
    whole = [COMPRESS[encoding](part) for part in parts]
    last = whole[-1][: data.draw(st.integers(1, len(whole[-1]) - 1))]
    before = sum(map(len, whole[:-1]))
    with pytest.raises(ValueError, match=f"the body ends within the {encoding} that begins at byte {before}$"):
        decompressed(b"".join([*whole[:-1], last]), encoding, piece)


@pytest.mark.parametrize("encoding", sorted(COMPRESS))
@pytest.mark.parametrize("body", [b"garbage", b"\x00" * 40, b"{}"])
def test_anything_else_is_refused_alone_and_after_a_part(encoding: str, body: bytes) -> None:
    for before in (b"", COMPRESS[encoding](b"part")):
        with pytest.raises(ValueError, match=f"the body (is not|ends within the) .*byte {len(before)}"):
            decompressed(before + body, encoding)


def test_an_encoding_that_we_do_not_have_is_named_with_those_that_we_have() -> None:
    with pytest.raises(ValueError, match="'br' is not supported: use lz4, zstd, gzip, deflate or none"):
        decompressed(b"x", "br")
    assert decompressed(b"x", "") == decompressed(b"x", "identity") == b"x"


@pytest.mark.parametrize("accepted", ["lz4", "gzip, deflate", "deflate", "br, gzip"])
def test_what_we_compress_can_be_read(accepted: str) -> None:
    body, encoding = compressed(b"answer" * 100, accepted)
    assert encoding in accepted
    assert decompressed(body, encoding) == b"answer" * 100


def test_an_answer_stays_plain_where_the_client_has_no_encoding_of_ours() -> None:
    assert compressed(b"answer", "br") == (b"answer", "")
