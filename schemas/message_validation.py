"""Whether what a message says makes sense, before any channel is asked: its kind, and the content that kind needs.

What enters: kind, text and content of a message. What leaves: a sentence that says what contradicts what, or None. Pure. Limits that
differ between channels are the connectors' business; this is what no channel could ever mean.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from schemas.limits import MOST_MEDIA
from schemas.records import KINDS, MEDIA_KINDS, SIGNALS, Content, Media

_EMPTY = Content()
# What belongs to which kinds alone; media and text are counted by kind below.
_BELONGS: Mapping[str, tuple[str, ...]] = {
    "template": ("template",),
    "location": ("location",),
    "reaction": ("reaction",),
    "media": (*MEDIA_KINDS, "album", "template"),
}


def contradiction(kind: str, text: str, content: Content | None) -> str | None:
    """Why a message cannot mean anything; None when it can."""
    if kind == "text" and content is None:
        return None
    if kind not in KINDS:
        return f"kind {kind[:40]!r} is none of ours: use one of {', '.join(KINDS)}"
    said = content or _EMPTY
    for name, kinds in _BELONGS.items():
        if kind not in kinds and getattr(said, name) not in (None, ()):
            return f"a message of kind {kind} has a {name}: that belongs to kind {' or '.join(kinds)}"
    if text and kind in ("reaction", "location", "sticker", *SIGNALS):
        return f"a message of kind {kind} has a text: send it as a message of its own"
    missing = _NEEDS[kind](kind, said) if kind in _NEEDS else None
    return missing or next((found for found in map(_medium, said.media) if found), None)


def _of_media(kind: str, said: Content) -> str | None:
    if [medium.kind for medium in said.media] == [kind]:
        return None
    return f"a message of kind {kind} needs exactly one medium, of that kind; it has {_counted(said.media)}"


def _of_album(_: str, said: Content) -> str | None:
    if not 2 <= len(said.media) <= MOST_MEDIA:
        return f"an album has 2 to {MOST_MEDIA} media; this one has {len(said.media)}"
    if any(medium.kind == "sticker" for medium in said.media):
        return "an album holds no sticker: send it as a message of its own"
    return None


def _of_template(_: str, said: Content) -> str | None:
    if said.template is None or not said.template.name or not said.template.language:
        return "a message of kind template needs a template with a name and a language"
    if len(said.media) > 1:
        return f"a template has at most one medium, in its header; this one has {len(said.media)}"
    return None


def _of_location(_: str, said: Content) -> str | None:
    place = said.location
    if place is None:
        return "a message of kind location needs a location"
    if not (-90 <= place.latitude <= 90 and -180 <= place.longitude <= 180):  # not a number fails too
        return "the place is not on this earth: a latitude is -90 to 90 degrees, a longitude -180 to 180"
    return None


def _of_reaction(_: str, said: Content) -> str | None:
    if said.reaction is None or not said.reply_to:
        return "a reaction needs the emoji (empty takes it back) and `reply_to`, the provider's id of the message it is about"
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
        return f"a medium of kind {medium.kind[:40]!r} is none of ours: use one of {', '.join(MEDIA_KINDS)}"
    if bool(medium.url) == bool(medium.provider_media_id):
        return (
            f"the {medium.kind} needs a link or the provider's id of it, and has {'both' if medium.url else 'neither'}"
        )
    if medium.url and not _is_link(medium.url):
        return f"the link of the {medium.kind} is no http or https address"
    if medium.size is not None and medium.size < 0:
        return f"the {medium.kind} has {medium.size} bytes: a size is 0 or more"
    return None


def _is_link(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _counted(media: tuple[Media, ...]) -> str:
    return ", ".join(medium.kind[:40] for medium in media[:MOST_MEDIA]) or "none"
