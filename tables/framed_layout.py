"""The layout of rows that hold records: a head of JSON, a line feed, then the Avro bytes of the records, one after the other.

The JSON of a record can be six times as long as the record (a control character becomes \\u0001). Its Avro bytes are not, so a row is about
as small as the records in it. The head has the size of each record in bytes in place of the record. The JSON written here has no line feed.
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
    """For rows that are frozen dataclasses as in JsonLayout, which may also hold StrEnums.

    `framed` names the field that holds one record, a tuple of records, or a tuple of the bytes of records. `time` names the field that a
    row's lifetime counts from (Unix milliseconds). `decode` raises CodecError for bytes of a record that cannot be read, and ValueError,
    KeyError or TypeError for other bytes that are not such a row.
    """

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
    """A record as plain data. For bytes that this release cannot read as a record: their number."""
    if type(each) is bytes:
        try:
            each = codec.decode_any(each)
        except codec.CodecError:
            return f"{len(each)} bytes"
    return orjson.loads(orjson.dumps(each))
