"""Records to Avro bytes, by a function that is made for each schema: it writes the fields one after the other, without a dict between.

In: a schema, and the bytes before each datum. Out: a function from a record to bytes. Guaranteed: the bytes are those that fastavro writes.
For a value that the schema does not allow, and for a text of MOST_TEXT bytes or more, the function raises; schemas/codec.py then asks
fastavro, which writes the one and says what is wrong with the other. Pure; nothing blocks.

The function is Python text that is compiled at the start, as `dataclasses` does for `__init__`: half the time of one call a field.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

MOST_TEXT = 4096  # bytes
Write = Callable[[Any], bytes]
_NULL, _VALUE = b"\x00", b"\x02"  # the branches of a union of null and something
_END = b"\x00"  # of an array or a map
_INT, _LONG = 1 << 31, 1 << 63
_SIX, _SEVEN = 1 << 35, 1 << 42  # a time in milliseconds has six bytes
_DOUBLE = struct.Struct("<d")


def record_writer(definition: Mapping[str, Any], header: bytes) -> Write:
    """A function that writes records of this schema, each behind `header`. It raises any exception for a value that it does not write.
    Raises NotImplementedError for a schema with a type that none of ours has."""
    source = _Source()
    source.add("write", definition, "header")
    names = {**_NAMES, **source.enums, "header": header}
    exec("\n".join(source.functions), names)  # noqa: S102  # made here, of our own schemas
    write: Write = names["write"]
    return write


class _Source:
    """The text of the functions for one schema: one for each class of records in it."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self.enums: dict[str, Write] = {}
        self._known: dict[str, str] = {}  # names of the schema -> names of functions

    def add(self, function: str, definition: Mapping[str, Any], *before: str) -> None:
        parts = [*before]
        for field in definition["fields"]:
            parts += self._parts(field["type"], f"record.{field['name']}")
        self.functions.append(f"def {function}(record):\n    return join(({', '.join(parts)},))")

    def _parts(self, kind: Any, value: str) -> list[str]:
        """Expressions of the bytes of one value."""
        if kind == "string":
            return [f"sizes[len(text := {value}.encode())]", "text"]
        match kind:
            case ["null", "string"]:
                some = "VALUE + sizes[len(text := some.encode())] + text"
                return [f"NULL if (some := {value}) is None else {some}"]
            case ["null", inner]:
                return [f"NULL if (some := {value}) is None else VALUE + {self._function(inner)}(some)"]
            case {"type": "array", "items": inner}:
                return [f"array({value}, {self._function(inner)})"]
            case {"type": "map", "values": inner}:
                return [f"labels({value}, {self._function(inner)})"]
        return [f"{self._function(kind)}({value})"]

    def _function(self, kind: Any) -> str:
        """The name of a function that writes one value."""
        match kind:
            case str() if kind in _PLAIN:
                return f"write_{kind}"
            case str() if kind in self._known:
                return self._known[kind]
            case {"type": "enum", "name": name, "symbols": symbols}:
                self._known[name] = f"enum_{name}"
                self.enums[f"enum_{name}"] = {symbol: _long(n) for n, symbol in enumerate(symbols)}.__getitem__
                return self._known[name]
            case {"type": "record", "name": name}:
                self._known[name] = f"write_{name}"
                self.add(self._known[name], kind)
                return self._known[name]
            case {"type": str() as based_on, "logicalType": _}:
                return self._function(based_on)
        raise NotImplementedError(f"no field of ours has the type {kind}")


# --- values -----------------------------------------------------------------------------------------------------------------


def _string(value: str) -> bytes:
    text = value.encode()
    return _SIZES[len(text)] + text


def _bytes(value: bytes) -> bytes:
    if type(value) is not bytes:
        raise TypeError("not bytes")
    return _long(len(value)) + value


def _int(value: int) -> bytes:
    if not -_INT <= value < _INT:
        raise OverflowError("beyond an int")
    return _long(value)


def _long(value: int) -> bytes:
    """Avro's number: near to zero it has few bytes; seven bits in each, the lowest first, and a bit that says whether another byte
    follows."""
    if type(value) is not int:
        raise TypeError("not an int")
    rest = value + value if value >= 0 else -value - value - 1
    if rest < 128:
        return _BYTES[rest]
    if _SIX <= rest < _SEVEN:
        low = (rest & 127 | 128, rest >> 7 & 127 | 128, rest >> 14 & 127 | 128)
        return bytes((*low, rest >> 21 & 127 | 128, rest >> 28 & 127 | 128, rest >> 35))
    if not -_LONG <= value < _LONG:
        raise OverflowError("beyond a long")
    found = bytearray()
    while rest > 127:
        found.append(rest & 127 | 128)
        rest >>= 7
    found.append(rest)
    return bytes(found)


def _double(value: float) -> bytes:
    if type(value) is not float:
        raise TypeError("not a float")
    return _DOUBLE.pack(value)


def _array(items: Any, item: Write) -> bytes:
    number = len(items)
    return b"".join((_long(number), *map(item, items), _END)) if number else _END


def _labels(items: Mapping[str, Any], value: Write) -> bytes:
    parts = [_string(name) + value(each) for name, each in items.items()]
    return b"".join((_long(len(parts)), *parts, _END)) if parts else _END


_BYTES = [bytes((n,)) for n in range(128)]
_SIZES = [_long(n) for n in range(MOST_TEXT)]
_PLAIN: Mapping[str, Write] = {
    "string": _string,
    "bytes": _bytes,
    "int": _int,
    "long": _long,
    "double": _double,
    "boolean": {False: b"\x00", True: b"\x01"}.__getitem__,
}
_NAMES: Mapping[str, Any] = {
    **{f"write_{name}": write for name, write in _PLAIN.items()},
    "sizes": _SIZES,
    "array": _array,
    "labels": _labels,
    "join": b"".join,
    "NULL": _NULL,
    "VALUE": _VALUE,
}
