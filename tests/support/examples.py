"""The examples in schemas/examples as data: from JSON as a person writes it to the datum for fastavro, and from a record back to JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def datum(node: Any, value: Any) -> Any:
    """The datum for fastavro. In the JSON, bytes are text of code points 0 to 255, and times are plain milliseconds."""
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
    """A record as its example would be written."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    return value
