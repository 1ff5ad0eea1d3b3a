"""The examples of schemas/examples as data: JSON as a person writes it, to what fastavro writes, and back from typed records."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def datum(node: Any, value: Any) -> Any:
    """JSON as a person writes it, as what fastavro writes: bytes are text of code points 0 to 255, times plain milliseconds."""
    if isinstance(node, list):
        return None if value is None else datum(next(branch for branch in node if branch != "null"), value)
    if node == "bytes":
        return value.encode("latin-1")
    if isinstance(node, Mapping) and node["type"] == "array":
        return [datum(node["items"], item) for item in value]
    if isinstance(node, Mapping) and node["type"] == "record":
        known = {field["name"]: field["type"] for field in node["fields"]}
        return {name: datum(known[name], inner) for name, inner in value.items()}  # an unknown name is a KeyError
    return value


def as_json(value: Any) -> Any:
    """A typed record as its example would be written."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    return value
