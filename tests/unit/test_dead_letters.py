"""A dead letter fits its topic, whatever the record was, and keeps small content byte for byte."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.engine.dead_letters import (
    DETAIL,
    HEADER_BYTES,
    HEADER_NAME,
    HEADERS,
    KEY_BYTES,
    KEY_START,
    TOPIC,
    VALUE_BYTES,
    VALUE_START,
    dead_letter,
)
from pipelines.engine.stage import Headers, Output, Record, Refusal
from schemas import codec
from schemas.catalog import record_bytes
from schemas.records import DeadLetter, Header
from tests.support.builders import NOW, examples

AROUND = st.sampled_from([0, 1, KEY_BYTES, VALUE_BYTES, 1_000_000, 5_000_000]).flatmap(
    lambda size: st.integers(max(0, size - 2), size + 2)
)
SIZES = st.none() | AROUND
NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(["n" * HEADER_NAME, "n" * 100_000, "\ud83d", "é" * 300])
VALUES = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from(["olá", "\udc80", b"v" * HEADER_BYTES, b"v" * (HEADER_BYTES + 1)])
)
HEADER_LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=HEADERS + 3) | st.builds(
    lambda header, times: [header] * times, st.tuples(NAMES, VALUES), st.sampled_from([64, 65, 5_000])
)
DETAILS = st.text(max_size=30) | st.sampled_from(["x" * 1_000_000, "\ud83d" * 1_001, "\U0001f69a" * 2_000])


def letter_of(record: Record, detail: str = "why", tenant_id: str = "t") -> tuple[Output, DeadLetter]:
    output = dead_letter("route", Refusal(record, "not_avro", detail, tenant_id), NOW)
    assert output.value is not None
    return output, codec.decode(output.value, DeadLetter)


def filled(size: int | None) -> bytes | None:
    return None if size is None else (b"0123456789" * (size // 10 + 1))[:size]


def record(key: bytes | None, value: bytes | None, headers: Headers = ()) -> Record:
    return Record("messages", 3, 9, NOW - 1, key, value, headers)


Kept = tuple[bytes | None, int | None, str | None]


def expected(whole: bytes | None, limit: int, start: int) -> Kept:
    """Byte for byte up to the limit; beyond it the first bytes, with the length and the digest of the whole."""
    if whole is None or len(whole) <= limit:
        return whole, None, None
    return whole[:start], len(whole), hashlib.sha256(whole).hexdigest()


@examples(60)
@given(SIZES, SIZES, HEADER_LISTS, DETAILS, st.text(max_size=70))
@example(5_000_000, 5_000_000, [("n" * 100_000, b"v" * 1_000_000)] * 64, "\U0001f69a" * 5_000, "\0" * 990_000)
@example(KEY_BYTES, VALUE_BYTES, [("\U0001f69a" * HEADER_NAME, b"v" * HEADER_BYTES)] * 64, "\U0001f69a" * DETAIL, "t")
def test_any_record_becomes_a_letter_that_fits(
    key_size: int | None,
    value_size: int | None,
    headers: Sequence[tuple[str, str | bytes | None]],
    detail: str,
    tenant_id: str,
) -> None:
    key, value = filled(key_size), filled(value_size)
    output, letter = letter_of(record(key, value, headers), detail, tenant_id)
    assert len(output.key) + len(output.value or b"") < 0.7 * record_bytes(TOPIC)
    assert output.key == (letter.key or b"")
    assert (letter.key, letter.key_length, letter.key_sha256) == expected(key, KEY_BYTES, KEY_START)
    assert (letter.value, letter.value_length, letter.value_sha256) == expected(value, VALUE_BYTES, VALUE_START)
    assert len(letter.headers) + letter.headers_left_out == len(headers)
    assert len(letter.detail) <= DETAIL
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("messages", 3, 9)


@examples(60)
@given(
    st.lists(st.tuples(st.text(max_size=HEADER_NAME), st.none() | st.binary(max_size=HEADER_BYTES)), max_size=HEADERS)
)
def test_small_headers_are_kept_byte_for_byte(headers: list[tuple[str, bytes | None]]) -> None:
    _, letter = letter_of(record(b"k", b"v", headers))
    assert letter.headers == tuple(Header(key=name, value=value) for name, value in headers)
    assert (letter.headers_cut, letter.headers_left_out) == (0, 0)


def test_large_headers_are_cut_and_counted() -> None:
    headers = [("n" * 300, b"v"), ("n", b"v" * 5_000), ("n", None), *[("more", b"")] * 70]
    _, letter = letter_of(record(b"k", b"v", headers))
    assert [(len(h.key), len(h.value or b"")) for h in letter.headers[:3]] == [(256, 1), (1, 4096), (1, 0)]
    assert (letter.headers_cut, len(letter.headers), letter.headers_left_out) == (2, 64, 9)


@pytest.mark.parametrize(
    ("said", "kept"),
    [("t", "t"), ("Acme_1.eu-west", "Acme_1.eu-west"), ("x" * 64, "x" * 64)]
    + [(bad, "default") for bad in ("", "x" * 65, "a b", "a\n", "\0" * 990_000, "ação", "\ud800", "a/b")],
    ids=lambda text: repr(text[:20]),
)
def test_only_a_valid_tenant_id_is_repeated(said: str, kept: str) -> None:
    assert letter_of(record(b"k", b"v"), tenant_id=said)[1].tenant_id == kept


def test_what_utf8_has_no_bytes_for_is_said_with_question_marks() -> None:
    _, letter = letter_of(record(b"k", b"v", [("\ud83d", "\udc80")]), "field \ud83d")
    assert (letter.detail, letter.headers) == ("field ?", (Header(key="?", value=b"?"),))


def test_a_record_that_never_was_in_kafka_is_named_by_its_content() -> None:
    nowhere = Record("receipts", -1, -1, NOW, b"k", b"v", ())
    ids = [
        letter_of(each)[1].dead_letter_id
        for each in (nowhere, nowhere, nowhere._replace(value=b"w"), nowhere._replace(key=b"kv", value=b""))
    ]
    assert ids[0].startswith("route:receipts:")
    assert ids[0] == ids[1], "a repetition has the same id"
    assert len(set(ids)) == 3
