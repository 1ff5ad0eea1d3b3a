"""Readers of Avro data, generated for one schema and one record class each.

Enters: a schema as parsed JSON, and the class with the same fields. Leaves: a function from bytes and a position to a record and the
position after it. Guaranteed: what it reads is what fastavro and schemas/codec.py read from the same bytes. Of data that are broken, or
written in an unusual way, it reads nothing: it raises one of UNREADABLE, and the caller reads them with fastavro, which says what is wrong.

It exists because a sink decodes every record, and decoding was most of its work. Pure; a reader may be called from any thread.
"""

import dataclasses
import math
import struct
import typing
from collections.abc import Callable, Mapping
from typing import Any

Read = Callable[[bytes, int], tuple[Any, int]]
UNREADABLE = (IndexError, KeyError, ValueError, OverflowError, struct.error)
_DOUBLE = struct.Struct("<d")


def reader_of(schema: Mapping[str, Any], cls: type[Any]) -> Read:
    """The reader of a record. The fields of `cls` are those of the schema, in the same order. Raises ValueError for a schema of a kind that
    it cannot generate."""
    return _Source({}).function(schema, cls)


class _Source:
    """The source of one reader and the objects that it uses, by name. `enums` are the enums that the schema has defined so far."""

    def __init__(self, enums: dict[str, Any]) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"from_bytes": int.from_bytes, "rest": _rest, "double": _double}
        self.enums = enums

    def function(self, schema: Mapping[str, Any], cls: type[Any]) -> Read:
        hints = typing.get_type_hints(cls)
        fields = schema["fields"]
        if [each["name"] for each in fields] != [each.name for each in dataclasses.fields(cls)]:
            raise ValueError(f"{cls.__name__} has other fields than its schema")
        for number, field in enumerate(fields):
            self.value(field["type"], f"f{number}", hints[field["name"]], 1)
        self.names |= {"new": object.__new__, "cls": cls}
        self.line(1, "record = new(cls)")
        for number, field in enumerate(fields):
            # faster than the __init__ of a frozen dataclass, which does the same by name
            self.names[f"put{number}"] = getattr(cls, field["name"]).__set__
            self.line(1, f"put{number}(record, f{number})")
        self.line(1, "return record, p")
        exec("def read(b, p):\n" + "\n".join(self.lines), self.names)  # noqa: S102  # source made from our own schemas, as dataclasses do
        read: Read = self.names["read"]
        return read

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def value(self, schema: Any, into: str, hint: Any, depth: int) -> None:
        """Lines that read a value into the variable `into`. `hint` is its type in the class."""
        kind = schema["type"] if isinstance(schema, Mapping) else schema
        if isinstance(kind, list):
            self.optional(kind, into, hint, depth)
        elif kind in {"string", "bytes"}:
            self.size(depth)
            self.line(depth, "e = p + (n >> 1)")
            self.line(depth, f"{into} = b[p:e]" + (".decode()" if kind == "string" else ""))
            self.line(depth, "p = e")
        elif kind == "long" and isinstance(schema, Mapping):
            self.time(into, depth)
        elif kind in {"long", "int"}:
            self.number(into, depth, bits=64 if kind == "long" else 32)
        elif kind == "boolean":
            self.line(depth, f"{into} = (False, True)[b[p]]; p += 1")
        elif kind == "double":
            self.line(depth, f"{into} = double(b, p); p += 8")
        elif kind == "enum" or kind in self.enums:
            self.enum(schema, kind, into, hint, depth)
        elif kind == "array":
            self.array(schema["items"], into, typing.get_args(hint)[0], depth)
        elif kind == "map":
            self.map(schema["values"], into, depth)
        elif kind == "record":
            self.record(schema, into, hint, depth)
        else:
            raise ValueError(f"no reader for {kind}")

    def optional(self, branches: list[Any], into: str, hint: Any, depth: int) -> None:
        if len(branches) != 2 or branches[0] != "null":
            raise ValueError(f"no reader for the union {branches}")
        inner = next((each for each in typing.get_args(hint) if each is not type(None)), hint)
        self.line(depth, "n = b[p]; p += 1")
        self.line(depth, "if n == 0:")
        self.line(depth + 1, f"{into} = None")
        self.line(depth, "else:")
        self.line(depth + 1, "if n != 2: raise ValueError")
        self.value(branches[1], into, inner, depth + 1)

    def size(self, depth: int) -> None:
        """Reads a number that is not negative, twice its value, into `n`."""
        self.line(depth, "n = b[p]; p += 1")
        self.line(depth, "if n > 127: n, p = rest(b, p, n)")
        self.line(depth, "if n & 1: raise ValueError")

    def number(self, into: str, depth: int, bits: int) -> None:
        self.line(depth, "n = b[p]; p += 1")
        self.line(depth, "if n > 127: n, p = rest(b, p, n)")
        self.line(depth, f"if n >> {bits}: raise ValueError")
        self.line(depth, f"{into} = n >> 1 ^ -(n & 1)")

    def time(self, into: str, depth: int) -> None:
        """Times of our years have six bytes: these are put together at once."""
        self.line(depth, "n = from_bytes(b[p : p + 6], 'little')")
        self.line(depth, "if n & 0x808080808080 == 0x8080808080 and not n & 1:")
        together = " | ".join(f"n >> {shift + 1} & {0x7F << 7 * shift >> 1:#x}" for shift in range(6))
        self.line(depth + 1, f"{into} = {together}; p += 6")
        self.line(depth, "else:")
        self.number(into, depth + 1, 64)

    def enum(self, schema: Any, kind: str, into: str, hint: Any, depth: int) -> None:
        if kind == "enum":
            self.enums[schema["name"]] = tuple(hint(symbol) for symbol in schema["symbols"])
            kind = schema["name"]
        self.names[f"symbols_{kind}"] = self.enums[kind]
        self.line(depth, "n = b[p]; p += 1")
        self.line(depth, "if n & 0x81: raise ValueError")
        self.line(depth, f"{into} = symbols_{kind}[n >> 1]")

    def array(self, items: Any, into: str, hint: Any, depth: int) -> None:
        self.blocks(into, "[]", depth)
        self.value(items, f"{into}i", hint, depth + 2)
        self.line(depth + 2, f"{into}.append({into}i)")
        self.line(depth, f"{into} = tuple({into})")

    def map(self, values: Any, into: str, depth: int) -> None:
        self.blocks(into, "{}", depth)
        self.value("string", f"{into}k", str, depth + 2)
        self.value(values, f"{into}v", str, depth + 2)
        self.line(depth + 2, f"{into}[{into}k] = {into}v")

    def blocks(self, into: str, empty: str, depth: int) -> None:
        """A loop over the items of an array or a map; the caller adds what an item is, two deeper."""
        self.line(depth, f"{into} = {empty}")
        self.line(depth, "while True:")
        self.size(depth + 1)
        self.line(depth + 1, "if n == 0: break")
        self.line(depth + 1, "if n >> 1 > len(b) - p: raise ValueError")  # an item has a byte at least
        self.line(depth + 1, f"for {into}n in range(n >> 1):")

    def record(self, schema: Any, into: str, hint: Any, depth: int) -> None:
        name = f"read_{schema['name']}"
        self.names[name] = _Source(self.enums).function(schema, hint)
        self.line(depth, f"{into}, p = {name}(b, p)")


def _rest(b: bytes, p: int, n: int) -> tuple[int, int]:
    """The rest of a varint whose first byte is `n`, and the position after it."""
    n &= 0x7F
    for shift in range(7, 64, 7):
        byte = b[p]
        p += 1
        n |= (byte & 0x7F) << shift
        if byte < 0x80:
            return n, p
    raise ValueError


def _double(b: bytes, p: int) -> float:
    value: float = _DOUBLE.unpack_from(b, p)[0]
    if not math.isfinite(value):
        raise ValueError
    return value
