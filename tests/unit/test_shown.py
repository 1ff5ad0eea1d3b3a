"""Texts of other people as `chat4all message show` prints them: harmless ones unchanged, and none that controls the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.message import shown
from tests.support.builders import examples

HARMLESS = {
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "a woman who runs": "\U0001f3c3\U0001f3fd\u200d\u2640\ufe0f",
    "the rainbow flag": "\U0001f3f3\ufe0f\u200d\U0001f308",
    "the flag of a country": "\U0001f1e7\U0001f1f7",
    "the flag of Scotland, made of tags": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "a keycap": "1\ufe0f\u20e3",
    "a heart as text": "\u2764\ufe0e",
    "combining marks": "e\u0301 n\u0303 \u0e19\u0e49\u0e33",
    "Persian with a non-joiner": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Devanagari with a joiner": "\u0915\u094d\u200d\u0937",
    "Hebrew with a mark of direction": "\u05e9\u05dc\u05d5\u05dd\u200f!",
    "spaces that do not break": "10\u00a0000\u202f\u20ac",
    "an emoji of a later Unicode": "\U0001faea",
    "lines and tabs": "one\n\ttwo",
}
HARMFUL = {
    "an escape sequence": ("\x1b[2Jgone", "\ufffd[2Jgone"),
    "a title of the window": ("\x1b]0;mine\x07", "\ufffd]0;mine\ufffd"),
    "the same in one character": ("\x9b2J \x9d0;x\x9c", "\ufffd2J \ufffd0;x\ufffd"),
    "what writes over the line": ("paid\rfree", "paid\ufffdfree"),
    "backspaces": ("no\b\byes", "no\ufffd\ufffdyes"),
    "zero bytes and delete": ("a\x00b\x7f", "a\ufffdb\ufffd"),
    "an override of direction": ("\u202egnp.exe\u202c", "\ufffdgnp.exe\ufffd"),
    "an isolate": ("\u2067abc\u2069", "\ufffdabc\ufffd"),
    "separators of lines": ("a\u2028b\u2029c\x85d", "a\ufffdb\ufffdc\ufffdd"),
    "half of a letter": ("a\ud83db", "a\ufffdb"),
    "line ends of Windows": ("one\r\ntwo", "one\ntwo"),
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_text_is_unchanged(text: str) -> None:
    assert shown(text).plain == text
    if "\t" not in text:
        assert printed(text) == f"{text}\n"


@pytest.mark.parametrize(("text", "expected"), HARMFUL.values(), ids=HARMFUL)
def test_terminal_control_characters_are_replaced(text: str, expected: str) -> None:
    assert shown(text).plain == expected


@examples(300)
@given(text=st.text())
def test_any_text_can_be_printed_and_controls_nothing(text: str) -> None:
    out = printed(text)
    assert out.encode()
    assert not any((ord(letter) < 32 and letter not in "\n\t") or 127 <= ord(letter) < 160 for letter in out)


def printed(text: str) -> str:
    console = Console(file=io.StringIO(), width=1000, soft_wrap=True, color_system=None)
    console.print(shown(text))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
