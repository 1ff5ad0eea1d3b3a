"""Rows that hold records: a head of JSON, a line feed, then the records as their Avro bytes, one after the other.

JSON of a record can be six times as long as the record (a control character becomes \\u0001); its Avro bytes are not, so a row is as
small as what it holds. The head has each record's size in the place of the record; JSON as we write it holds no line feed.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeVar

import orjson

from schemas import codec
from tables.layout import frozen

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class FramedLayout(Generic[Row]):
    """Rows are frozen dataclasses as for JsonLayout, and enums of text; the field `framed` holds a record, or a tuple of records or of
    bytes of records. `time` names the field that a row's life counts from."""

    packed: ClassVar[bool] = False
    bucketed: ClassVar[bool] = False
    name: str
    row: type[Row]
    framed: str
    time: str | None = None
    version: int = 1
    keyed_by_record: bool = False
    _convert: Mapping[str, Callable[[Any], Any]] = field(init=False)
    _single: bool = field(init=False)
    _of_bytes: bool = field(init=False)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(self.row)
        enums = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, StrEnum)}
        object.__setattr__(self, "_convert", enums)
        object.__setattr__(self, "_single", typing.get_origin(hints[self.framed]) is not tuple)
        object.__setattr__(self, "_of_bytes", typing.get_args(hints[self.framed])[:1] == (bytes,))

    @property
    def time_of(self) -> Callable[[Row], int | None] | None:
        return None if self.time is None else attrgetter(self.time)

    def encode(self, row: Row) -> bytes:
        held = getattr(row, self.framed)
        if not held:
            return orjson.dumps(row) + b"\n"
        frames = [each if type(each) is bytes else codec.encode(each) for each in ((held,) if self._single else held)]
        head = _with(row, self.framed, [len(frame) for frame in frames])
        return b"".join((orjson.dumps(head), b"\n", *frames))

    def decode(self, value: bytes) -> Row:
        end = value.index(b"\n")
        head: dict[str, Any] = orjson.loads(value[:end])
        known = getattr(self.row, "__dataclass_fields__")  # noqa: B009  # mypy knows no dataclass behind a type variable
        fields = {k: frozen(v) if type(v) is list else v for k, v in head.items() if k in known}
        for name, convert in self._convert.items():
            if name in fields:
                fields[name] = convert(fields[name])
        fields[self.framed] = self._unframed(value, end + 1, head[self.framed])
        return self.row(**fields)

    def as_json(self, row: Row) -> Any:
        held = getattr(row, self.framed)
        shown = [_shown(each) for each in ((held,) if self._single else held)]
        return orjson.loads(orjson.dumps(_with(row, self.framed, shown[0] if self._single else shown)))

    def _unframed(self, value: bytes, start: int, sizes: list[int]) -> Any:
        found: list[Any] = []
        for size in sizes:
            frame = value[start : start + size]
            found.append(frame if self._of_bytes else codec.decode_any(frame))
            start += size
        return found[0] if self._single else tuple(found)


def _with(row: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(row, **{name: value})


def _shown(each: Any) -> Any:
    """A record as plain data; bytes that are no record any more by their number."""
    if type(each) is bytes:
        try:
            each = codec.decode_any(each)
        except codec.CodecError:
            return f"{len(each)} bytes"
    return orjson.loads(orjson.dumps(each))
