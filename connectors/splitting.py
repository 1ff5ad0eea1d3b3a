"""Splits a long text into several messages, at paragraphs, lines, sentences or words, by the provider's own counting.

What enters: a text, the provider's limit and how it counts. What leaves: the pieces, in order. Guaranteed: no piece is over the limit or
blank; only white space at the cuts is lost; an accented letter or an emoji of several code points is not cut if it fits into a piece;
the same text gives the same pieces. Pure.
"""

import unicodedata
from collections.abc import Callable
from functools import lru_cache

# Where to cut, the best first. Cuts are searched in the second half of a piece only: earlier ones would make too many pieces.
_CUTS = ("\n\n", "\n", ". ", " ")
_JOINER = "\u200d"
_KEPT = 256  # cached texts: a delivery is split before its calls and again at each of them


@lru_cache(maxsize=_KEPT)
def split(text: str, limit: int, length: Callable[[str], int] = len) -> tuple[str, ...]:
    """The pieces of a text; none for a text of only white space. `length` must not decrease when a text grows."""
    pieces = []
    rest = text.strip()
    while rest:
        cut = _cut(rest, limit, length)
        pieces.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return tuple(pieces)


def _cut(text: str, limit: int, length: Callable[[str], int]) -> int:
    """How many characters the first piece has, at least one."""
    longest = _longest(text, limit, length)
    if longest == len(text):
        return longest
    for cut in _CUTS:
        place = text.rfind(cut, longest // 2, longest + 1)
        if place > 0:
            return place + len(cut.rstrip())
    whole = longest
    while whole > 1 and _belongs_before(text[whole], text[whole - 1]):
        whole -= 1
    return whole if whole > 1 else max(longest, 1)


def _longest(text: str, limit: int, length: Callable[[str], int]) -> int:
    """The most characters that fit, by binary search: `length` may count bytes or UTF-16 units."""
    low, high = 0, min(len(text), limit)  # a character counts at least one unit
    while low < high:
        middle = (low + high + 1) // 2
        if length(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _belongs_before(character: str, before: str) -> bool:
    """Whether a character forms one symbol with the one before it: an accent, a joined emoji, its skin colour or its variant."""
    return (
        bool(unicodedata.combining(character))
        or _JOINER in (character, before)
        or "\ufe00" <= character <= "\ufe0f"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )
