"""Checks a message before any channel: its kind, and the content that this kind needs.

Enters: kind, text and content of a message. Leaves: a sentence that names the contradiction, or None. It refuses what no channel could ever
send; connectors check the limits that differ between channels. Pure.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from schemas.content import Content, Media
from schemas.limits import MOST_MEDIA
from schemas.records import KINDS, MEDIA_KINDS, SIGNALS

_EMPTY = Content()
# Field of the content -> the only kinds that may have it. Numbers of media and the text are checked by kind below.
_BELONGS: Mapping[str, tuple[str, ...]] = {
    "template": ("template",),
    "location": ("location",),
    "reaction": ("reaction",),
    "media": (*MEDIA_KINDS, "album", "template"),
}


def contradiction(kind: str, text: str, content: Content | None) -> str | None:
    """What contradicts what in a message; None if nothing does."""
    if kind == "text" and content is None:
        return None
    if kind not in KINDS:
        return f"there is no kind {kind[:40]!r}: use one of {', '.join(KINDS)}"
    given = content or _EMPTY
    for name, kinds in _BELONGS.items():
        if kind not in kinds and getattr(given, name) not in (None, ()):
            return f"a message of kind {kind} has a {name}: only kind {' or '.join(kinds)} may have one"
    if text and kind in ("reaction", "location", "sticker", *SIGNALS):
        return f"a message of kind {kind} has a text: send the text as another message"
    missing = _NEEDS[kind](kind, given) if kind in _NEEDS else None
    return missing or next((found for found in map(_medium, given.media) if found), None)


def _of_media(kind: str, given: Content) -> str | None:
    if [medium.kind for medium in given.media] == [kind]:
        return None
    return f"a message of kind {kind} needs exactly one medium, of that kind; it has {_counted(given.media)}"


def _of_album(_: str, given: Content) -> str | None:
    if not 2 <= len(given.media) <= MOST_MEDIA:
        return f"an album has 2 to {MOST_MEDIA} media; this one has {len(given.media)}"
    if any(medium.kind == "sticker" for medium in given.media):
        return "an album may not contain a sticker: send it as another message"
    return None


def _of_template(_: str, given: Content) -> str | None:
    if given.template is None or not given.template.name or not given.template.language:
        return "a message of kind template needs a template with a name and a language"
    if len(given.media) > 1:
        return f"a template has at most one medium, in its header; this one has {len(given.media)}"
    return None


def _of_location(_: str, given: Content) -> str | None:
    place = given.location
    if place is None:
        return "a message of kind location needs a location"
    if not (-90 <= place.latitude <= 90 and -180 <= place.longitude <= 180):  # refuses NaN too
        return "the location does not exist: a latitude is -90 to 90 degrees, a longitude -180 to 180"
    return None


def _of_reaction(_: str, given: Content) -> str | None:
    if given.reaction is None or not given.reply_to:
        return "a reaction needs the emoji (empty removes an earlier one) and `reply_to`, the provider's id of the message it is about"
    return None


_NEEDS: Mapping[str, Callable[[str, Content], str | None]] = MappingProxyType(
    {
        **dict.fromkeys(MEDIA_KINDS, _of_media),
        "album": _of_album,
        "template": _of_template,
        "location": _of_location,
        "reaction": _of_reaction,
    }
)


def _medium(medium: Media) -> str | None:
    if medium.kind not in MEDIA_KINDS:
        return f"there is no kind of media {medium.kind[:40]!r}: use one of {', '.join(MEDIA_KINDS)}"
    if bool(medium.url) == bool(medium.provider_media_id):
        return f"the {medium.kind} needs either a link or the provider's id of it, and has {'both' if medium.url else 'neither'}"
    if medium.url and not _is_link(medium.url):
        return f"the link of the {medium.kind} is not an http or https address"
    if medium.size is not None and medium.size < 0:
        return f"the {medium.kind} has {medium.size} bytes: a size must be 0 or more"
    return None


def _is_link(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _counted(media: tuple[Media, ...]) -> str:
    return ", ".join(medium.kind[:40] for medium in media[:MOST_MEDIA]) or "none"
