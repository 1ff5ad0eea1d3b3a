"""Checks before any call whether a channel could ever accept a delivery, by what the channel declares.

What enters: a Delivery and the channel's Capabilities. What leaves: None, or Rejected with the limit in its sentence. Guaranteed: pure;
a delivery that passes can be encoded as JSON. What only the provider knows (can a link be fetched, does a template exist) is not checked.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

import orjson

from connectors.base import Capabilities, MediaLimit
from connectors.splitting import split
from schemas.content import Content, LongText, Media
from schemas.outcomes import Rejected
from schemas.records import MEDIA_KINDS, Delivery

MOST_PARTS = 10
_EMPTY = Content()
_Check = Callable[[Delivery, Content, Capabilities, str], Rejected | None]


def content_of(delivery: Delivery) -> Content:
    return delivery.content or _EMPTY


def pieces(delivery: Delivery, can: Capabilities) -> tuple[str, ...]:
    """The texts of the messages to send: the text itself, or its pieces when it is too long and the delivery allows splitting.

    Empty for a text that is only white space and too long.
    """
    too_long = can.length(delivery.text) > can.text_limit
    if too_long and content_of(delivery).long_text is LongText.SPLIT:
        return split(delivery.text, can.text_limit, can.length)
    return (delivery.text,)


def refusal_of(delivery: Delivery, can: Capabilities, name: str) -> Rejected | None:
    """Why the channel called `name` can never accept the delivery; None when it may. Raises nothing."""
    content, kind = content_of(delivery), delivery.kind
    if kind not in can.kinds:
        return Rejected("kind_unsupported", f"{name} accepts no message of this kind; it accepts {_listed(can.kinds)}")
    if not delivery.address:
        return Rejected("no_address", f"the delivery names no {name} address")
    if not _is_unicode(delivery):
        return Rejected("text_not_unicode", "the text holds a lone surrogate, which no UTF-8 can carry")
    if kind in can.targeted and not content.reply_to:
        return Rejected("no_target", f"on {name} this kind of message needs `reply_to`, the provider's id of a message")
    if content.reply_to and kind not in can.targeted and not can.replies:
        return Rejected("reply_unsupported", f"{name} has no replies that refer to a message")
    check = _CHECKS.get(kind)
    return None if check is None else check(delivery, content, can, name)


def _text(delivery: Delivery, content: Content, can: Capabilities, name: str) -> Rejected | None:
    range_of = f"{name} accepts 1 to {can.text_limit} {can.text_unit}"
    if not delivery.text:
        return Rejected("text_empty", f"the text is empty; {range_of}")
    length = can.length(delivery.text)
    if length <= can.text_limit:
        return None
    if content.long_text is not LongText.SPLIT:
        return Rejected(
            "text_too_long", f"the text has {length} {can.text_unit}; {name} accepts at most {can.text_limit}"
        )
    needed = len(split(delivery.text, can.text_limit, can.length))
    if not needed:
        return Rejected("text_empty", f"the text is only white space; {range_of}")
    if needed > MOST_PARTS:
        return Rejected(
            "text_too_long", f"the text would make {needed} messages on {name}; we send at most {MOST_PARTS}"
        )
    return None


def _one_medium(delivery: Delivery, content: Content, can: Capabilities, name: str) -> Rejected | None:
    if len(content.media) != 1 or content.media[0].kind != delivery.kind:
        return Rejected("media_missing", f"a message of kind {delivery.kind} needs exactly one medium of that kind")
    return medium(content.media[0], can, name) or _caption(delivery, can.media[delivery.kind], can, name)


def _album(delivery: Delivery, content: Content, can: Capabilities, name: str) -> Rejected | None:
    fewest, most = can.album
    if not fewest <= len(content.media) <= most:
        return Rejected("album_size", f"the album has {len(content.media)} media; {name} accepts {fewest} to {most}")
    refusals = (medium(each, can, name) for each in content.media)
    found = next((each for each in refusals if each is not None), None)
    return found or _caption(delivery, MediaLimit(0), can, name)


def medium(media: Media, can: Capabilities, name: str) -> Rejected | None:
    """Why the channel cannot accept this medium: its kind, its place (link or id), its type or its size; None when it can."""
    limit = can.media.get(media.kind)
    if limit is None:
        return Rejected("media_unsupported", f"{name} accepts no media of this kind; it accepts {_listed(can.media)}")
    if (media.url is None) == (media.provider_media_id is None):
        return Rejected("media_place", "a medium needs either a link or the provider's id of it, and not both")
    if not media.provider_media_id and not _is_link(media.url or ""):
        return Rejected("media_place", "the medium's link is no http or https address")
    if media.mime_type and limit.mime_types and media.mime_type.partition(";")[0].strip() not in limit.mime_types:
        accepted = _listed(limit.mime_types)
        return Rejected("media_type", f"{name} does not accept this type of {media.kind}; it accepts {accepted}")
    if media.url and media.size is not None and media.size > limit.max_bytes:  # a file with an id was accepted before
        detail = f"the {media.kind} has {media.size} bytes; {name} accepts at most {limit.max_bytes}"
        return Rejected("media_too_large", detail)
    return None


def _caption(delivery: Delivery, limit: MediaLimit, can: Capabilities, name: str) -> Rejected | None:
    length = can.length(delivery.text)
    if length and not limit.captioned:
        return Rejected(
            "caption_unsupported", f"{name} accepts no text with this kind of media: send it as its own message"
        )
    if length > can.caption_limit:
        detail = f"the caption has {length} {can.text_unit}; {name} accepts at most {can.caption_limit}"
        return Rejected("caption_too_long", detail)
    return None


def _location(_: Delivery, content: Content, _can: Capabilities, _name: str) -> Rejected | None:
    place = content.location
    if place is None:
        return Rejected("location_missing", "a message of kind location needs a location")
    if not (-90 <= place.latitude <= 90 and -180 <= place.longitude <= 180):  # NaN fails too
        return Rejected("location_range", "the latitude must be -90 to 90 degrees, the longitude -180 to 180")
    return None


def _template(_: Delivery, content: Content, can: Capabilities, name: str) -> Rejected | None:
    template = content.template
    if template is None or not template.name or not template.language:
        return Rejected("template_missing", "a message of kind template needs a template's name and language")
    if len(content.media) > 1:
        return Rejected("media_missing", "a template has at most one medium, in its header")
    return medium(content.media[0], can, name) if content.media else None


_CHECKS: Mapping[str, _Check] = MappingProxyType(
    {
        "text": _text,
        "album": _album,
        "location": _location,
        "template": _template,
        **dict.fromkeys(MEDIA_KINDS, _one_medium),
    }
)


def _is_unicode(delivery: Delivery) -> bool:
    if delivery.content is None and delivery.text.isascii() and delivery.address.isascii():
        return True  # nearly all; the others are encoded to find out
    try:
        orjson.dumps(delivery)
    except TypeError:
        return False
    return True


def _is_link(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not any(c.isspace() for c in url)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
