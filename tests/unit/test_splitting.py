"""A long text in pieces: none is over the limit as the provider counts, and only white space at the cuts is lost."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.splitting import split


def characters(text: str) -> int:
    return len(text)


def utf8_bytes(text: str) -> int:
    return len(text.encode())


def utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


COUNTING = (characters, utf8_bytes, utf16_units)
WORDS = st.text(st.sampled_from("aé語🌻\u0301\u200d\ufe0f .\n\t"), max_size=200) | st.text(max_size=60)


@given(text=WORDS, limit=st.integers(4, 40), length=st.sampled_from(COUNTING))
def test_no_piece_is_over_the_limit_or_blank_and_only_white_space_is_lost(
    text: str, limit: int, length: Callable[[str], int]
) -> None:
    pieces = split(text, limit, length)
    assert all(0 < length(piece) <= limit and piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("short", 10, ("short",)),
        ("  \n ", 10, ()),
        ("one two three", 9, ("one two", "three")),
        ("First one. And two", 14, ("First one.", "And two")),
        ("a paragraph\n\nanother one", 18, ("a paragraph", "another one")),
        ("a line here\nb line", 13, ("a line here", "b line")),
        ("abcdefghij", 4, ("abcd", "efgh", "ij")),
        ("a far too long word", 11, ("a far too", "long word")),
    ],
)
def test_a_text_is_cut_where_a_reader_would_cut(text: str, limit: int, pieces: tuple[str, ...]) -> None:
    assert split(text, limit) == pieces


def test_what_belongs_together_stays_together() -> None:
    family, accented, thumb = "👩\u200d👩\u200d👧", "e\u0301", "👍\U0001f3fd"
    assert split(f"abc{family}", 5) == ("abc", family)
    assert split(f"abc{accented}", 4) == ("abc", accented)
    assert split(f"abc{thumb}", 4) == ("abc", thumb)
    assert split(family, 4) == (family[:4], family[4:]), "unless it is longer than a piece"


def test_the_unit_decides_how_much_fits() -> None:
    flowers = "🌻" * 4
    assert [len(split(flowers, 8, length)) for length in COUNTING] == [1, 2, 1]
    assert [len(split(flowers, 4, length)) for length in COUNTING] == [1, 4, 2]
