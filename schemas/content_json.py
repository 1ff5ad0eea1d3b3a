"""A message's content as JSON and back: for table rows, for the archive, and for files that people write.

Enters: a Content, or the JSON of one, in which any field may be missing. Leaves: the other form. Guaranteed: a Content is the same after
both steps, and a field that is added later does not change JSON that was written before. Pure.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from schemas.content import Content, Location, LongText, Media, Template

T = TypeVar("T")


def as_json(content: Content | None) -> dict[str, Any] | None:
    """The content as plain data, without the fields that have their default."""
    return None if content is None else cast("dict[str, Any]", _plain(content))


def from_json(found: Mapping[str, Any] | None) -> Content | None:
    """The content of plain data. Unknown fields are dropped, because a newer release may have written them. Raises TypeError or ValueError
    for data of another shape."""
    return None if found is None else _made(Content, found)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
    return {name: _plain(found) for name, (found, default) in fields.items() if found != default}


def _made(cls: type[T], found: Mapping[str, Any]) -> T:
    names = [field.name for field in dataclasses.fields(cast("Any", cls))]
    return cls(**{name: _CONVERT.get(name, _as_is)(found[name]) for name in names if name in found})


def _as_is(value: Any) -> Any:
    return value


# By name: these names have one meaning in Content, Media, Template and Location.
_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "media": lambda items: tuple(_made(Media, item) for item in items),
    "template": lambda item: None if item is None else _made(Template, item),
    "location": lambda item: None if item is None else _made(Location, item),
    "long_text": LongText,
    "header": tuple,
    "body": tuple,
    "buttons": tuple,
}
