"""Validation of calls to the Instagram Messaging API: messages and sender actions.

What enters: the parameters of a call to /messages. What leaves: an InstagramBody, or GraphRefused with Meta's code. Guaranteed: pure; a
text is counted in bytes of UTF-8; text and attachment exclude each other.
https://developers.facebook.com/docs/instagram-platform/instagram-api-with-instagram-login/messaging-api
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulators.graph_api import GraphRefused, invalid
from simulators.links import is_url

TEXT_BYTES = 1000
# type of an attachment -> our kind, types of file, most bytes
MEDIA: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "image": ("image", ("image/png", "image/jpeg", "image/gif"), 8_000_000),
    "audio": ("audio", ("audio/aac", "audio/mp4", "audio/x-m4a", "audio/wav", "audio/x-wav", "video/mp4"), 25_000_000),
    "video": ("video", ("video/mp4", "video/ogg", "video/x-msvideo", "video/quicktime", "video/webm"), 25_000_000),
    "file": ("document", ("application/pdf",), 25_000_000),
}
_ACTIONS = {
    "mark_seen": "mark_read",
    "typing_on": "typing",
    "typing_off": "typing",
    "react": "reaction",
    "unreact": "reaction",
}
_MOST_ATTACHMENTS = 10
_MOST_QUICK_REPLIES = 13


@dataclass(frozen=True, slots=True)
class InstagramBody:
    """One call, validated. `attachments` are (type, link) of the files Meta would fetch."""

    kind: str
    recipient: str
    text: str = ""
    is_action: bool = False
    is_human_agent: bool = False
    is_private_reply: bool = False
    attachments: tuple[tuple[str, str], ...] = ()
    reusable_ids: tuple[str, ...] = ()


def read(given: Mapping[str, Any]) -> InstagramBody:
    """The call that the parameters describe; raises GraphRefused."""
    recipient, is_comment = _recipient(given.get("recipient"))
    is_human_agent = _tag(given)
    action, message = given.get("sender_action"), given.get("message")
    if action is not None:
        if message is not None:
            raise invalid("Only one of message and sender_action may be given")
        return InstagramBody(
            _action(action, given.get("payload")), recipient, is_action=True, is_human_agent=is_human_agent
        )
    if not isinstance(message, dict):
        raise invalid("The parameter message is required")
    reply_to = given.get("reply_to", message.get("reply_to"))
    if reply_to is not None and not (isinstance(reply_to, dict) and isinstance(reply_to.get("mid"), str)):
        raise invalid("Param reply_to must hold a mid")
    text, attachments = message.get("text"), _attachments(message)
    if text is not None and attachments:
        raise invalid("Message cannot have both text and attachment")
    if attachments:
        files = tuple((kind, payload["url"]) for kind, payload in attachments if "url" in payload and kind in MEDIA)
        reusable = tuple(payload["attachment_id"] for _, payload in attachments if "attachment_id" in payload)
        first = attachments[0][0]
        kind = "album" if len(attachments) > 1 else MEDIA[first][0] if first in MEDIA else first.lower()
        return InstagramBody(
            "sticker" if kind == "like_heart" else kind,
            recipient,
            is_human_agent=is_human_agent,
            is_private_reply=is_comment,
            attachments=files,
            reusable_ids=reusable,
        )
    _quick_replies(message.get("quick_replies"))
    return InstagramBody("text", recipient, _text(text), is_human_agent=is_human_agent, is_private_reply=is_comment)


def attachment(given: Any) -> tuple[str, dict[str, Any]]:
    """Type and payload of one attachment."""
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise invalid("Param message[attachment] must have a type")
    kind, payload = given["type"], given.get("payload", {})
    if not isinstance(payload, dict):
        raise invalid("Param message[attachment][payload] must be an object")
    if kind == "like_heart":
        return kind, {}
    if kind == "MEDIA_SHARE":
        if not payload.get("id"):
            raise invalid("Param message[attachment][payload][id] is required")
    elif kind == "template":
        if payload.get("template_type") not in {"generic", "button", "product"}:
            raise invalid("Param message[attachment][payload][template_type] must be one of {GENERIC, BUTTON, PRODUCT}")
    elif kind not in MEDIA:
        raise invalid(
            f'Param message[attachment][type] must be one of {{AUDIO, FILE, IMAGE, VIDEO, ...}} - got "{kind}".'
        )
    elif not (is_url(payload.get("url")) or isinstance(payload.get("attachment_id"), str)):
        raise invalid("Param message[attachment][payload][url] should represent a valid URL")
    return kind, payload


def _recipient(recipient: Any) -> tuple[str, bool]:
    """The recipient's id, and whether this is the private reply to a comment."""
    if not isinstance(recipient, dict):
        raise invalid("The parameter recipient is required")
    person, comment = recipient.get("id"), recipient.get("comment_id")
    if isinstance(comment, str) and comment:
        return comment, True
    if isinstance(person, int) and not isinstance(person, bool):
        person = str(person)
    if not isinstance(person, str) or not person:
        raise invalid('Param recipient[id] must be a valid ID string (e.g., "123")')
    if not (person.isascii() and person.isdecimal() and len(person) <= 30):
        raise invalid('Param recipient[id] must be a valid ID string (e.g., "123")')
    return person, False


def _tag(given: Mapping[str, Any]) -> bool:
    """Whether the message has the tag HUMAN_AGENT, which extends the window to seven days."""
    kind, tag = given.get("messaging_type", "RESPONSE"), given.get("tag")
    if kind not in {"RESPONSE", "UPDATE", "MESSAGE_TAG"}:
        raise invalid(f'Param messaging_type must be one of {{RESPONSE, UPDATE, MESSAGE_TAG}} - got "{kind}".')
    if (kind == "MESSAGE_TAG") != (tag is not None):
        raise invalid("Param tag goes with messaging_type MESSAGE_TAG")
    if tag not in {None, "HUMAN_AGENT"}:
        raise invalid(f'Param tag must be one of {{HUMAN_AGENT}} - got "{tag}".')
    return tag is not None


def _action(action: Any, payload: Any) -> str:
    if action not in _ACTIONS:
        raise invalid(f'Param sender_action must be one of {{{", ".join(_ACTIONS).upper()}}} - got "{action}".')
    if action in {"react", "unreact"}:
        if not isinstance(payload, dict) or not isinstance(payload.get("message_id"), str):
            raise invalid("Param payload[message_id] is required")
        if action == "react" and not isinstance(payload.get("reaction"), str):
            raise invalid("Param payload[reaction] is required")
    return _ACTIONS[action]


def _attachments(message: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    one, many = message.get("attachment"), message.get("attachments")
    if one is not None:
        return [attachment(one)]
    if many is None:
        return []
    if not isinstance(many, list) or not 1 <= len(many) <= _MOST_ATTACHMENTS:
        raise invalid(f"Param message[attachments] must have 1 to {_MOST_ATTACHMENTS} elements")
    read = [attachment(each) for each in many]
    if any(kind != "image" for kind, _ in read):
        raise invalid("Param message[attachments] takes images only")
    return read


def _quick_replies(replies: Any) -> None:
    if replies is not None and not (isinstance(replies, list) and len(replies) <= _MOST_QUICK_REPLIES):
        raise invalid(f"Param message[quick_replies] must have at most {_MOST_QUICK_REPLIES} elements")


def _text(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise GraphRefused(100, message="(#100) The parameter message[text] must not be empty", subcode=2018008)
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        raise GraphRefused(
            100, message=f"(#100) Length of param message[text] must be less than or equal to {TEXT_BYTES}"
        )
    return text
