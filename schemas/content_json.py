"""A message's content as JSON and back: for rows, for the archive, and for files that people write.

What enters: a Content, or JSON of one, in which any field may be missing. What leaves: the other form. Guaranteed: the way there
and back changes nothing, and a field added later changes no JSON that was written before.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from schemas.records import Content, Location, LongText, Media, Template

T = TypeVar("T")


def as_json(content: Content | None) -> dict[str, Any] | None:
    """Only what was said: fields that have their default are left out."""
    return None if content is None else cast("dict[str, Any]", _said(content))


def from_json(found: Mapping[str, Any] | None) -> Content | None:
    """Fields that are not known are left out: a newer program may have written them."""
    return None if found is None else _made(Content, found)


def _said(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_said(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
    return {name: _said(found) for name, (found, default) in fields.items() if found != default}


def _made(cls: type[T], found: Mapping[str, Any]) -> T:
    names = [field.name for field in dataclasses.fields(cast("Any", cls))]
    return cls(**{name: _CONVERT.get(name, _as_is)(found[name]) for name in names if name in found})


def _as_is(value: Any) -> Any:
    return value


# By name: in a Media, a Template and a Location no field of these names means something else.
_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "media": lambda items: tuple(_made(Media, item) for item in items),
    "template": lambda item: None if item is None else _made(Template, item),
    "location": lambda item: None if item is None else _made(Location, item),
    "long_text": LongText,
    "header": tuple,
    "body": tuple,
    "buttons": tuple,
}
