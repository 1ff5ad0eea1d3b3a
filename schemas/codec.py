"""Records to bytes and back: Avro in the Confluent wire format (0x00, schema id as 4 bytes big-endian, datum).

Only this module imports fastavro. A datum is read with the schema it was written with and resolved to the newest version of its record, so
old bytes can always be read. Bytes that cannot be decoded raise one of the errors below, which says what is wrong, where in the bytes, and
what to do; decoding raises nothing else. Every record that `decode` returns is within the limits of schemas/limits.py.

Every function is pure and does not block; any thread may call it.
"""

import dataclasses
import io
import math
import struct
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import takewhile
from operator import attrgetter
from typing import Any, TypeVar, cast

import fastavro
import fastavro.schema

from schemas import catalog, limit_check, records
from schemas.avro_reader import UNREADABLE, reader_of

MAGIC = 0
_HEADER = struct.Struct(">bI")
R = TypeVar("R", bound=records.Record)
Convert = Callable[[Any], Any]


class CodecError(ValueError):
    """The bytes are not one of our records. `cause` is the code for dead letters and counters (schemas/causes.py)."""

    cause = "not_decodable"


class NotAvro(CodecError):
    """Empty, too short, or without the magic byte of the Confluent wire format."""

    cause = "not_avro"


class UnknownSchema(CodecError):
    """The schema id is not the id of one of our schemas."""

    cause = "unknown_schema"


class UnexpectedRecord(CodecError):
    """The record is one of ours, but does not belong on this topic."""

    cause = "unexpected_record"


class MalformedDatum(CodecError):
    """The datum ends early, has extra bytes at its end, or holds a value that its schema does not allow."""

    cause = "malformed_datum"


class OutOfLimits(CodecError):
    """The record is one of ours, but a field is too long, or holds a character or a number that is not allowed (schemas/limits.py)."""

    cause = "field_out_of_limits"


class _Writer:
    """How the records of one class become bytes: the newest schema, its id, and the fields in order."""

    __slots__ = ("header", "schema", "to_datum")

    def __init__(self, cls: type[Any]) -> None:
        newest = catalog.newest(cls.__name__)
        self.header = _HEADER.pack(MAGIC, newest.id)
        self.schema = _parsed(newest)
        self.to_datum = _to_datum(cls)


class _Reader:
    """How a datum of one schema id becomes a record: writer schema, reader schema, class."""

    __slots__ = ("build", "cls", "ints", "leading", "read", "reader_schema", "writer_schema")

    def __init__(self, schema: catalog.Schema) -> None:
        newest = catalog.newest(schema.record)
        self.cls: type[Any] = getattr(records, schema.record)
        self.writer_schema = _parsed(schema)
        self.reader_schema = None if newest.id == schema.id else _parsed(newest)
        self.build = _from_datum(self.cls)
        # what nearly every record is read with; None for an older version, whose fields are others
        self.read = reader_of(schema.definition, self.cls) if newest.id == schema.id else None
        self.ints = [field["name"] for field in newest.definition["fields"] if field["type"] == "int"]
        # the names of the texts at the start of a datum
        self.leading = [
            each["name"] for each in takewhile(lambda f: f["type"] == "string", schema.definition["fields"])
        ]


def _parsed(schema: catalog.Schema) -> Any:
    # The published schema keeps its logical types. Here times are plain milliseconds, so that no field becomes a datetime.
    return fastavro.schema.parse_schema(_without_logical_types(schema.definition), named_schemas={})


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {k: _without_logical_types(v) for k, v in node.items() if k != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(v) for v in node]
    return node


def _to_datum(cls: type[Any]) -> Convert:
    """A function from an instance of `cls` to the dict that fastavro writes. Only fields that hold records are converted."""
    names = [f.name for f in dataclasses.fields(cls)]
    values = attrgetter(*names)  # a tuple: every record has two fields or more
    hints = typing.get_type_hints(cls)
    lists = {name: _to_datum(item) for name, hint in hints.items() if (item := _item_class(hint))}
    optional = {name: _to_datum(inner) for name, hint in hints.items() if (inner := _optional_class(hint))}

    def convert(record: Any) -> dict[str, Any]:
        datum = dict(zip(names, values(record), strict=True))
        for name, inner in lists.items():
            datum[name] = [inner(item) for item in datum[name]]
        for name, inner in optional.items():
            if datum[name] is not None:
                datum[name] = inner(datum[name])
        return datum

    return convert


def _from_datum(cls: type[Any]) -> Convert:
    """A function from fastavro's dict to an instance of `cls`: enums, tuples and nested records in place of str, list and dict."""
    hints = typing.get_type_hints(cls)
    converts = {name: found for name, hint in hints.items() if (found := _from_value(hint))}
    slots = [(field.name, getattr(cls, field.name).__set__) for field in dataclasses.fields(cls)]
    optional = {name: _from_datum(inner) for name, hint in hints.items() if (inner := _optional_class(hint))}

    def convert(datum: dict[str, Any]) -> Any:
        for name, function in converts.items():
            datum[name] = function(datum[name])
        for name, function in optional.items():
            if datum[name] is not None:
                datum[name] = function(datum[name])
        if len(datum) != len(slots):  # a newer schema has no field any more that the class still has, with a default
            return cls(**datum)
        record = object.__new__(cls)
        for name, put in slots:  # 2 microseconds faster per record than the __init__ of a frozen dataclass
            put(record, datum[name])
        return record

    return convert


def _from_value(hint: Any) -> Convert | None:
    """A function from fastavro's value to a value of the type `hint`; None if it is one already."""
    item = _item_class(hint)
    if item:
        inner = _from_datum(item)
        return lambda items: tuple([inner(i) for i in items])
    if typing.get_origin(hint) is tuple:
        return tuple
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {str(member): member for member in hint}.__getitem__
    return _finite if hint is float else None


def _finite(value: float) -> float:
    """Refuses infinity and NaN: they mean nothing in our fields, and JSON cannot hold them."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


def _item_class(hint: Any) -> type[Any] | None:
    """The dataclass X of a `tuple[X, ...]`, else None."""
    return _dataclass_of(hint) if typing.get_origin(hint) is tuple else None


def _optional_class(hint: Any) -> type[Any] | None:
    """The dataclass X of an `X | None`, else None."""
    return _dataclass_of(hint) if typing.get_origin(hint) is types.UnionType else None


def _dataclass_of(hint: Any) -> type[Any] | None:
    first = typing.get_args(hint)[0]
    return cast("type[Any]", first) if dataclasses.is_dataclass(first) else None


_WRITERS: dict[type[Any], _Writer] = {}
_READERS: dict[int, _Reader] = {}
for _schema in catalog.SCHEMAS:
    _READERS[_schema.id] = _Reader(_schema)
for _member in typing.get_args(records.Record):
    _WRITERS[_member] = _Writer(_member)
_EXPECTED = types.MappingProxyType({cls: cls.__name__ for cls in _WRITERS})


def encode(record: records.Record) -> bytes:
    """The record as Kafka value bytes, in the newest version of its schema. Does not check the limits (`check` does). Raises what fastavro
    raises for a field of another type than the class declares: a bug of the caller."""
    writer = _WRITERS[type(record)]
    out = io.BytesIO()
    out.write(writer.header)
    fastavro.schemaless_writer(out, writer.schema, writer.to_datum(record))
    return out.getvalue()


def decode(value: bytes | None, expected: type[R]) -> R:
    """The record in Kafka value bytes; None stands for a null value. Raises a CodecError if they are not a record of class `expected`
    within its limits."""
    record = decode_any(value)
    if type(record) is not expected:
        raise UnexpectedRecord(
            f"a {_EXPECTED[type(record)]} where a {_EXPECTED[expected]} belongs: produce it to its own topic (schemas/topics.toml)"
        )
    check(record)
    most = limit_check.most_bytes(expected)
    if most is not None and len(value or b"") > most:  # Avro allows numbers with unnecessary bytes
        raise OutOfLimits(
            f"{len(value or b'')} bytes: a {_EXPECTED[expected]} within its limits has at most {most}; encode numbers in their short form"
        )
    return record


def check(record: records.Record) -> None:
    """Raises OutOfLimits if a field of the record is out of its limits; the text names the first such field."""
    found = limit_check.fault(record)
    if found is not None:
        raise OutOfLimits(f"{found} (docs/limits.md)")


def peek(value: bytes | None, expected: type[records.Record], name: str) -> str | None:
    """The field `name` of a record, if it is one of the texts at the start of the datum. Reads nothing else, so the rest may still be
    wrong. None if the bytes are not a record of class `expected` or the field is not such a text; `decode` then raises the reason or
    returns the record."""
    if value is None or len(value) <= _HEADER.size or value[0] != MAGIC:
        return None
    reader = _READERS.get(_HEADER.unpack_from(value)[1])
    if reader is None or reader.cls is not expected or name not in reader.leading:
        return None
    end = _HEADER.size
    for _ in range(reader.leading.index(name) + 1):
        start, end = _text_at(value, end)
        if not start <= end <= len(value):
            return None
    try:
        return value[start:end].decode()
    except UnicodeDecodeError:
        return None


def _text_at(value: bytes, at: int) -> tuple[int, int]:
    """Where the text begins and ends whose size is at `at`. If there is no valid size, the end is before the beginning."""
    size = 0
    # Avro's varint: the lowest seven bits first
    for shift, byte in zip(range(0, 35, 7), value[at : at + 5], strict=False):
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return at, at - 1 if size & 1 else at + (size >> 1)  # an odd number stands for a negative size
    return at, -1


def decode_any(value: bytes | None) -> records.Record:
    """The record in Kafka value bytes, of any of our classes, without a check of its limits. Raises a CodecError if they are not a record
    of ours."""
    if not value:
        raise NotAvro("the value is empty: produce Avro in the Confluent wire format")
    if len(value) < _HEADER.size or value[0] != MAGIC:
        raise NotAvro(
            f"byte 0 is 0x{value[0]:02x}, {len(value)} bytes: not the Confluent wire format (0x00, 4-byte schema id, datum)"
        )
    schema_id = _HEADER.unpack_from(value)[1]
    reader = _READERS.get(schema_id)
    if reader is None:
        raise UnknownSchema(f"schema id {schema_id} is not one of ours: use an id of schemas/topics.toml")
    if reader.read is not None:
        try:
            found, end = reader.read(value, _HEADER.size)
        except UNREADABLE:
            end = -1
        if end == len(value):
            return cast("records.Record", found)
    return _read_in_full(value, schema_id, reader)


def _read_in_full(value: bytes, schema_id: int, reader: _Reader) -> records.Record:
    """Reads any version, and says what is wrong with bytes that are no record."""
    stream = io.BytesIO(value)
    stream.seek(_HEADER.size)
    try:
        datum: Any = fastavro.schemaless_reader(stream, reader.writer_schema, reader.reader_schema)
        record = reader.build(datum)
    except Exception as error:  # fastavro raises many kinds of errors on hostile bytes; all mean the same here
        raise MalformedDatum(
            f"schema id {schema_id}, near byte {stream.tell()} of {len(value)}: {type(error).__name__}: {error}"
        ) from error
    for name in reader.ints:  # fastavro reads an int as a long, which may not fit into an int4 or a partition number
        if not -0x8000_0000 <= datum[name] <= 0x7FFF_FFFF:
            raise MalformedDatum(f"schema id {schema_id}: {name} is {datum[name]}, beyond an int")
    if stream.tell() != len(value):
        raise MalformedDatum(
            f"schema id {schema_id}: {len(value) - stream.tell()} extra bytes after byte {stream.tell()}"
        )
    return cast("records.Record", record)
