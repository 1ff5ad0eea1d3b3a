"""Texts as the databases hold them: reversible, injective, and within the limits of an index and of a date."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.records import Message
from sinks.storable_text import (
    EARLIEST,
    KEY_BYTES,
    LATEST,
    are_held,
    are_keys,
    are_storable,
    held,
    key,
    original,
    original_json,
    storable,
    storable_json,
)

hostile = st.text(st.sampled_from("\x00\u2400" + "0a"), max_size=12) | st.text(max_size=50)


@given(hostile)
def test_storable_is_undone_by_original_and_holds_no_nul(text: str) -> None:
    assert "\x00" not in storable(text)
    assert original(storable(text)) == text


@given(
    st.recursive(
        hostile | st.none() | st.integers() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(hostile, inner),
    )
)
def test_texts_inside_json_keep_the_same_rules(value: Any) -> None:
    there = storable_json(value)
    assert "\\u0000" not in json.dumps(there)
    assert repr(original_json(there)) == repr(value)  # as text, because not a number equals nothing


@given(hostile, hostile)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (storable(one) == storable(other)) == (one == other)
    assert (key(one) == key(other)) == (one == other)


@given(st.text(st.characters(exclude_characters="\x00\u2400", exclude_categories=["Cs"])))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert storable(text) == text
    if len(text.encode()) <= KEY_BYTES:
        assert key(text) == text


@pytest.mark.parametrize("letter", ["a", "é", "語", "👋", "\x00"])
@pytest.mark.parametrize("length", [127, 128, 129, 256, 511, 512, 513, 100_000])
def test_a_key_fits_an_index_and_long_ids_stay_different(letter: str, length: int) -> None:
    text = letter * length
    assert len(key(text).encode()) <= KEY_BYTES
    assert key(text) != key(text + letter)
    assert key(text) == key(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_time_is_held_at_the_limits_and_left_alone_between_them(at: int) -> None:
    assert held(at) == (at if EARLIEST <= at <= LATEST else (EARLIEST if at < EARLIEST else LATEST))


def test_half_a_surrogate_pair_never_reaches_a_sink() -> None:
    """PostgreSQL and ClickHouse do not accept such a text. The codec refuses the bytes, so sinks need no rule for it."""
    encoded = codec.encode(Message(message_id="m", conversation_id="c", text="XXX", requested_at=0))
    with pytest.raises(codec.MalformedDatum):
        codec.decode(encoded.replace(b"XXX", "\ud800".encode("utf-8", "surrogatepass")), Message)


@given(st.lists(hostile | st.text("é", min_size=120, max_size=300), max_size=4), st.lists(st.integers(), max_size=4))
def test_a_look_at_many_values_agrees_with_a_look_at_each(texts: list[str], times: list[int]) -> None:
    assert are_storable(texts) == (list(map(storable, texts)) == texts)
    assert are_held(times) == (list(map(held, times)) == times)
    if are_keys(texts):
        assert list(map(key, texts)) == texts
