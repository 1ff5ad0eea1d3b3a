"""Formatting of Telegram texts: parse_mode HTML and MarkdownV2, and explicit entities.

What enters: a text and its parse_mode or entities. What leaves: the plain text and its entities in UTF-16 units; or TelegramRefused "can't
parse entities" in the server's wording. Left out: custom emoji, dates, the legacy Markdown mode (taken as plain text), automatic entities.
https://core.telegram.org/bots/api#formatting-options
"""

import html
import re
from typing import Any

from simulators.telegram_fields import Fields, TelegramRefused, bad, units

_HTML = {
    "b": "bold", "strong": "bold", "i": "italic", "em": "italic", "u": "underline", "ins": "underline",
    "s": "strikethrough", "strike": "strikethrough", "del": "strikethrough", "tg-spoiler": "spoiler", "span": "spoiler",
    "a": "text_link", "code": "code", "pre": "pre", "blockquote": "blockquote",
}  # fmt: skip  # a table, several pairs on a line
_TAG = re.compile(r"<(/?)([a-zA-Z0-9-]*)([^>]*)(>?)")
_HREF = re.compile(r"""\bhref\s*=\s*["']?([^"'\s>]+)""")
_MARKS = {
    "**": "bold",
    "*": "bold",
    "__": "underline",
    "_": "italic",
    "~": "strikethrough",
    "||": "spoiler",
    "`": "code",
    "```": "pre",
}
_TOKEN = re.compile(
    r"\\(.)|(```|__|\|\||[*_~`])|\[|\]\(([^)]*)\)|([\]()>#+\-=|{}.!])|([^\\`_*~|\[\]()>#+\-={}.!]+)", re.DOTALL
)


def parsed(fields: Fields, text: str, entities: str) -> tuple[str, list[dict[str, Any]]]:
    """Plain text and entities of a field. parse_mode overrides explicit entities, as in the server."""
    raw = fields.text(text)
    mode = fields.text("parse_mode").lower()
    if not mode:
        return raw, _given(raw, fields.nested(entities))
    if mode == "html":
        return _html(raw)
    if mode == "markdownv2":
        return _markdown(raw)
    if mode == "markdown":
        return raw, []
    raise bad("unsupported parse_mode")


def _given(text: str, entities: Any) -> list[dict[str, Any]]:
    if entities is None:
        return []
    if not isinstance(entities, list):
        raise bad("expected an Array of MessageEntity")
    for entity in entities:
        if not isinstance(entity, dict) or not isinstance(entity.get("type"), str):
            raise bad('can\'t parse MessageEntity: Field "type" must be of type String')
        offset, length = entity.get("offset"), entity.get("length")
        if not (isinstance(offset, int) and isinstance(length, int) and offset >= 0 and length > 0):
            raise bad("can't parse MessageEntity: offset and length must be numbers")
    return [each for each in entities if each["offset"] + each["length"] <= units(text)]


def _broken(sentence: str) -> TelegramRefused:
    return bad(f"can't parse entities: {sentence}")


def _html(raw: str) -> tuple[str, list[dict[str, Any]]]:
    plain, entities, at = "", [], 0
    opened: list[tuple[str, int, dict[str, Any]]] = []
    for tag in _TAG.finditer(raw):
        plain += html.unescape(raw[at : tag.start()])
        at = tag.end()
        place = len(raw[: tag.start()].encode())
        name = tag[2].lower()
        if not tag[4]:
            raise _broken(f"Unclosed start tag at byte offset {place}")
        if tag[1]:
            if not opened or opened[-1][0] != name:
                expected = f', expected "</{opened[-1][0]}>", found "</{name}>"' if opened else ""
                raise _broken(
                    f"Unexpected end tag at byte offset {place}"
                    if not opened
                    else f"Unmatched end tag at byte offset {place}{expected}"
                )
            _, start, entity = opened.pop()
            if units(plain) > start:
                entities.append({"offset": start, "length": units(plain) - start, **entity})
            continue
        if name not in _HTML:
            raise _broken(f'Unsupported start tag "{name}" at byte offset {place}')
        href = _HREF.search(tag[3])
        opened.append((name, units(plain), {"type": _HTML[name]} | ({"url": html.unescape(href[1])} if href else {})))
    if opened:
        raise _broken(f'Can\'t find end tag corresponding to start tag "{opened[-1][0]}"')
    plain += html.unescape(raw[at:])
    return plain, sorted(entities, key=lambda each: each["offset"])


def _markdown(raw: str) -> tuple[str, list[dict[str, Any]]]:
    plain, entities, at = "", [], 0
    opened: list[tuple[str, int]] = []
    while at < len(raw):
        token = _TOKEN.match(raw, at)
        if token is None:
            raise _broken(f"Character '{raw[at]}' is reserved and must be escaped with the preceding '\\'")
        at = token.end()
        inside_code = bool(opened) and opened[-1][0] in {"`", "```"}
        mark = "[" if token[0] == "[" else token[2]
        if token[1] is not None or token[5] is not None:
            plain += token[1] or token[5]
        elif inside_code and mark != opened[-1][0]:
            plain += token[0]
        elif token[3] is not None and opened and opened[-1][0] == "[":
            entities.append({"type": "text_link", "url": token[3], **_span(plain, opened.pop()[1])})
        elif mark is None:
            raise _broken(f"Character '{token[0][0]}' is reserved and must be escaped with the preceding '\\'")
        elif opened and opened[-1][0] == mark:
            entities.append({"type": _MARKS[mark], **_span(plain, opened.pop()[1])})
        else:
            opened.append((mark, units(plain)))
    if opened:
        name = {"[": "TextUrl"}.get(opened[-1][0]) or _MARKS[opened[-1][0]].capitalize()
        raise _broken(f"Can't find end of {name} entity at byte offset {opened[-1][1]}")
    return plain, sorted((each for each in entities if each["length"]), key=lambda each: each["offset"])


def _span(plain: str, start: int) -> dict[str, int]:
    return {"offset": start, "length": units(plain) - start}
