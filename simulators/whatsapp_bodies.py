"""Validation of message bodies as the WhatsApp Cloud API does it.

What enters: decoded JSON. What leaves: a WhatsAppBody, or GraphRefused with Meta's code and wording. Guaranteed: pure; types, limits and
combinations are checked as documented; an unknown key inside a typed object is refused; unknown keys outside it are ignored, as by Graph.
https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulators.graph_api import GraphRefused, invalid
from simulators.links import is_url

TEXT_LIMIT = 4096
CAPTION_LIMIT = 1024
TRACKER_LIMIT = 512
_NUMBER = re.compile(r"\+?[\d\s()-]{5,25}", re.ASCII)
_SCOPED = re.compile(r"[A-Z]{2}\.(ENT\.)?\d+", re.ASCII)
_WAMID = re.compile(r"wamid\.[A-Za-z0-9+/=_-]{10,}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z]{2,3})?", re.ASCII)
_TEMPLATE_NAME = re.compile(r"[a-z0-9_]{1,512}", re.ASCII)
_PARAMETERS = {
    "text",
    "currency",
    "date_time",
    "image",
    "document",
    "video",
    "payload",
    "location",
    "action",
    "coupon_code",
}
_MEDIA_KEYS = {
    "image": {"id", "link", "caption"},
    "video": {"id", "link", "caption"},
    "document": {"id", "link", "caption", "filename"},
    "audio": {"id", "link", "voice"},
    "sticker": {"id", "link"},
}


@dataclass(frozen=True, slots=True)
class WhatsAppBody:
    """One message, validated. `wa_id` is WhatsApp's own form of the address."""

    kind: str
    address: str
    wa_id: str
    text: str = ""
    tracker: str | None = None
    media_id: str | None = None
    link: str | None = None
    template: "TemplateBody | None" = None


@dataclass(frozen=True, slots=True)
class TemplateBody:
    """A template as a message uses it: the types of the parameters of each component."""

    name: str
    language: str
    parameters: Mapping[str, tuple[str, ...]]


def read(body: Mapping[str, Any], own_number: str) -> WhatsAppBody:
    """The message of a body; raises GraphRefused."""
    product(body)
    recipient_type = body.get("recipient_type", "individual")
    if recipient_type not in {"individual", "group"}:
        raise invalid(f'Param recipient_type must be one of {{INDIVIDUAL, GROUP}} - got "{recipient_type}".')
    address = _address(body)
    wa_id = canonical(address)
    if wa_id == own_number:
        raise GraphRefused(131021, "Recipient phone number cannot be the sender's own number")
    tracker = body.get("biz_opaque_callback_data")
    if tracker is not None and not isinstance(tracker, str):
        raise invalid("Param biz_opaque_callback_data must be a string.")
    if tracker is not None and len(tracker) > TRACKER_LIMIT:
        raise invalid(f"Param biz_opaque_callback_data must be at most {TRACKER_LIMIT} characters long.")
    _context(body.get("context"))
    kind = body.get("type", "text")
    reader = _KINDS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise GraphRefused(131051, "Message type is not currently supported.")
    content = body.get(kind)
    if content is None:
        raise GraphRefused(131008, f"Parameter '{kind}' is mandatory for type '{kind}'")
    if not isinstance(content, dict | list):
        raise invalid(f"Param {kind} must be a JSON object.")
    found = reader(kind, content)
    return WhatsAppBody(kind=kind, address=address, wa_id=wa_id, tracker=tracker, **found)


def product(body: Mapping[str, Any]) -> None:
    if body.get("messaging_product") != "whatsapp":
        if "messaging_product" not in body:
            raise GraphRefused(100, message="(#100) The parameter messaging_product is required.")
        raise invalid("Param messaging_product must be one of {WHATSAPP}.")


def canonical(address: str) -> str:
    """The wa_id of a number: its digits, with the national exceptions that make it differ from the number that was dialled.

    These are Brazil's ninth digit, Mexico's 1 and Argentina's 9. So statuses must be matched by wamid, never by number.
    """
    if _SCOPED.fullmatch(address):
        return address
    digits = re.sub(r"\D", "", address)
    if len(digits) == 13 and digits.startswith("55") and digits[4] == "9" and digits[2:4] >= "31":
        return digits[:4] + digits[5:]
    if len(digits) == 12 and digits.startswith("52"):
        return "521" + digits[2:]
    if len(digits) == 12 and digits.startswith("54"):
        return "549" + digits[2:]
    return digits


def wamid_of(value: object, name: str) -> str:
    """The value as a message id; raises GraphRefused when it is none."""
    if not isinstance(value, str) or not value:
        raise GraphRefused(131008, f"Parameter '{name}' is mandatory")
    if not _WAMID.fullmatch(value):
        raise GraphRefused(131009, f"{name} is not a valid message id")
    return value


def _address(body: Mapping[str, Any]) -> str:
    given = body.get("to") or body.get("recipient")
    if not given:
        raise GraphRefused(
            131008, "The parameter to is required.", message="(#131008) Required parameter is missing: to"
        )
    if not isinstance(given, str):
        raise invalid("Param to must be a string.")
    by_number = _NUMBER.fullmatch(given) and 5 <= sum(each.isdigit() for each in given) <= 20
    if not (by_number or _SCOPED.fullmatch(given)):
        raise GraphRefused(131009, "Recipient is not a valid phone number or user id")
    return given


def _context(context: object) -> None:
    if context is None:
        return
    if not isinstance(context, dict):
        raise invalid("Param context must be a JSON object.")
    _keys("context", context, {"message_id"})
    wamid_of(context.get("message_id"), "context['message_id']")


def _keys(name: str, content: Mapping[str, Any], known: set[str]) -> None:
    for key in content:
        if key not in known:
            raise invalid(f'Unexpected key "{key}" on param "{name}".')


def _text_of(name: str, content: Mapping[str, Any], key: str, limit: int, *, needed: bool = True) -> str:
    value = content.get(key)
    if value is None or value == "":
        if needed:
            raise GraphRefused(
                131008, f"{name}.{key} is required", message=f"(#131008) Required parameter is missing: {name}.{key}"
            )
        return ""
    if not isinstance(value, str):
        raise invalid(f"Param {name}['{key}'] must be a string.")
    if len(value) > limit:
        raise invalid(f"Param {name}['{key}'] must be at most {limit} characters long.")
    return value


def _object(kind: str, content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise invalid(f"Param {kind} must be a JSON object.")
    return content


def _text(kind: str, content: Any) -> dict[str, Any]:
    content = _object(kind, content)
    _keys(kind, content, {"body", "preview_url"})
    if not isinstance(content.get("preview_url", False), bool):
        raise invalid("Param text['preview_url'] must be a boolean.")
    text = _text_of(kind, content, "body", TEXT_LIMIT)
    if not text.strip():
        raise GraphRefused(131009, "text.body must not be blank")
    return {"text": text}


def _media(kind: str, content: Any) -> dict[str, Any]:
    content = _object(kind, content)
    _keys(kind, content, _MEDIA_KEYS[kind])
    media_id, link = content.get("id"), content.get("link")
    if (media_id is None) == (link is None):
        raise GraphRefused(
            131009 if media_id else 131008, f"exactly one of {kind}['id'] and {kind}['link'] is required"
        )
    if media_id is not None and not (isinstance(media_id, str) and media_id.isdecimal()):
        raise invalid(f"Param {kind}['id'] must be a valid media id.")
    if link is not None and not is_url(link):
        raise invalid(f"Param {kind}['link'] is not a valid URI.")
    _text_of(kind, content, "filename", 240, needed=False)
    if not isinstance(content.get("voice", False), bool):
        raise invalid("Param audio['voice'] must be a boolean.")
    return {"text": _text_of(kind, content, "caption", CAPTION_LIMIT, needed=False), "media_id": media_id, "link": link}


def _location(kind: str, content: Any) -> dict[str, Any]:
    content = _object(kind, content)
    _keys(kind, content, {"latitude", "longitude", "name", "address"})
    for key, most in (("latitude", 90), ("longitude", 180)):
        value = content.get(key)
        if value is None:
            raise GraphRefused(131008, f"location.{key} is required")
        try:
            is_there = not isinstance(value, bool) and -most <= float(value) <= most
        except (TypeError, ValueError):
            is_there = False
        if not is_there:
            raise GraphRefused(131009, f"location.{key} must be a number from -{most} to {most}")
    _text_of(kind, content, "name", 1000, needed=False)
    return {"text": _text_of(kind, content, "address", 1000, needed=False) and ""}


def _reaction(kind: str, content: Any) -> dict[str, Any]:
    content = _object(kind, content)
    _keys(kind, content, {"message_id", "emoji"})
    wamid_of(content.get("message_id"), "reaction['message_id']")
    emoji = content.get("emoji")
    if emoji is None:
        raise GraphRefused(131008, "reaction.emoji is required")
    if not isinstance(emoji, str) or len(emoji) > 16 or any(each.isascii() and each.isalnum() for each in emoji):
        raise GraphRefused(131009, "reaction.emoji must be one emoji, or empty to take it back")
    return {}


def _template(kind: str, content: Any) -> dict[str, Any]:
    content = _object(kind, content)
    _keys(kind, content, {"name", "language", "components", "namespace", "category"})
    name, language = content.get("name"), content.get("language")
    if not isinstance(name, str) or not name:
        raise GraphRefused(131008, "template.name is required")
    if not _TEMPLATE_NAME.fullmatch(name):
        raise GraphRefused(131009, "template.name holds lower-case letters, digits and _ only")
    code = language.get("code") if isinstance(language, dict) else None
    if not code:
        raise GraphRefused(131008, "template.language.code is required")
    if not isinstance(code, str) or not _LANGUAGE.fullmatch(code):
        raise GraphRefused(131009, "template.language.code is no locale")
    components = content.get("components") or []
    if not isinstance(components, list):
        raise invalid("Param template['components'] must be an array.")
    return {"template": TemplateBody(name, code, dict(_component(i, each) for i, each in enumerate(components)))}


def _component(number: int, component: object) -> tuple[str, tuple[str, ...]]:
    """The name of the component, and the types of its parameters."""
    name = f"template['components'][{number}]"
    if not isinstance(component, dict):
        raise invalid(f"Param {name} must be a JSON object.")
    _keys(name, component, {"type", "parameters", "sub_type", "index", "cards"})
    kind = str(component.get("type", "")).lower()
    if kind not in {"header", "body", "button", "carousel", "limited_time_offer"}:
        raise invalid(f"Param {name}['type'] must be one of {{HEADER, BODY, BUTTON}} - got \"{kind}\".")
    if kind == "button" and not ("sub_type" in component and "index" in component):
        raise GraphRefused(131008, f"{name} of type button needs sub_type and index")
    parameters = component.get("parameters") or []
    if not isinstance(parameters, list):
        raise invalid(f"Param {name}['parameters'] must be an array.")
    types = tuple(_parameter(f"{name}['parameters'][{i}]", each) for i, each in enumerate(parameters))
    return (f"button {component['index']}" if kind == "button" else kind), types


def _parameter(name: str, parameter: object) -> str:
    if not isinstance(parameter, dict):
        raise invalid(f"Param {name} must be a JSON object.")
    kind = parameter.get("type", "text")
    if kind not in _PARAMETERS:
        raise invalid(f"Param {name}['type'] must be one of {{TEXT, CURRENCY, DATE_TIME, ...}} - got \"{kind}\".")
    value = parameter.get(kind)
    if value is None or value == "":
        raise GraphRefused(131008, f"{name} of type {kind} needs '{kind}'")
    if kind in {"text", "payload", "coupon_code"} and not isinstance(value, str):
        raise invalid(f"Param {name}['{kind}'] must be a string.")
    return str(kind)


def _interactive(kind: str, content: Any) -> dict[str, Any]:
    content = _object(kind, content)
    _keys(kind, content, {"type", "header", "body", "footer", "action"})
    what, body, action = content.get("type"), content.get("body"), content.get("action")
    if what not in _INTERACTIVE:
        raise GraphRefused(131009, f"interactive.type {what!r} is not known")
    if not isinstance(action, dict):
        raise GraphRefused(131008, "interactive.action is required")
    if not isinstance(body, dict) and what != "product":
        raise GraphRefused(131008, "interactive.body is required")
    buttons = action.get("buttons", [])
    if what == "button" and not (isinstance(buttons, list) and 1 <= len(buttons) <= 3):
        raise GraphRefused(131009, "interactive.action.buttons holds 1 to 3 buttons")
    return {"text": _text_of("interactive.body", body or {}, "text", 1024, needed=what != "product")}


def _contacts(kind: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, list) or not content:
        raise GraphRefused(131008, "contacts is an array of at least one contact")
    for contact in content:
        name = contact.get("name") if isinstance(contact, dict) else None
        if not isinstance(name, dict) or not name.get("formatted_name"):
            raise GraphRefused(131008, f"{kind}[].name.formatted_name is required")
    return {}


_INTERACTIVE = {
    "button",
    "list",
    "cta_url",
    "flow",
    "product",
    "product_list",
    "catalog_message",
    "location_request_message",
}
_KINDS: Mapping[Any, Callable[[str, Any], dict[str, Any]]] = {
    "text": _text,
    **dict.fromkeys(_MEDIA_KEYS, _media),
    "location": _location,
    "reaction": _reaction,
    "template": _template,
    "interactive": _interactive,
    "contacts": _contacts,
}
