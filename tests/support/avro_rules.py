"""Avro's rules of schema resolution: why a reader could not read what a writer wrote.

Enters: two schemas as parsed JSON. Leaves: sentences; none if the reader can read every datum of the writer. Source: the Avro
specification, chapter Schema Resolution.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from schemas import content, records

PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def obstacles(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> list[str]:
    """Why data of `writer` may not be readable by `reader`."""
    return list(_obstacles(writer, reader, reader["name"], _named(writer), _named(reader)))


def _named(node: Any) -> dict[str, Any]:
    """Every named type that a schema defines."""
    found: dict[str, Any] = {}
    if isinstance(node, list):
        for inner in node:
            found |= _named(inner)
    elif isinstance(node, Mapping):
        if "symbols" in node or "fields" in node:
            found[node["name"]] = node
        for inner in node.values():
            found |= _named(inner)
    return found


def _form(node: Any, named: Mapping[str, Any]) -> tuple[str, Any]:
    """(kind, definition): a name is looked up, and an annotated primitive loses its annotations."""
    if isinstance(node, list):
        return "union", node
    if isinstance(node, str):
        return _form(named[node], named) if node in named else (node, node)
    return node["type"], node


def _obstacles(writer: Any, reader: Any, at: str, w_named: Any, r_named: Any) -> Iterator[str]:
    w_kind, w = _form(writer, w_named)
    r_kind, r = _form(reader, r_named)
    if w_kind == "union":
        for branch in w:
            yield from _obstacles(branch, reader, at, w_named, r_named)
    elif r_kind == "union":
        if all(list(_obstacles(writer, branch, at, w_named, r_named)) for branch in r):
            yield f"{at}: the writer's {w_kind} is in no branch of the reader"
    elif w_kind != r_kind:
        if r_kind not in PROMOTIONS.get(w_kind, ()):
            yield f"{at}: {w_kind} cannot be read as {r_kind}"
    elif w_kind in {"array", "map"}:
        inner = "items" if w_kind == "array" else "values"
        yield from _obstacles(w[inner], r[inner], f"{at}[]", w_named, r_named)
    elif w_kind in {"record", "enum"} and w["name"] != r["name"]:
        yield f"{at}: {w['name']} is not {r['name']}"
    elif w_kind == "enum":
        unknown = set(w["symbols"]) - set(r["symbols"])
        if unknown and "default" not in r:
            yield f"{at}: the reader knows no {', '.join(sorted(unknown))} and has no default"
    elif w_kind == "record":
        yield from _of_fields(w, r, at, w_named, r_named)


def _of_fields(w: Any, r: Any, at: str, w_named: Any, r_named: Any) -> Iterator[str]:
    written = {field["name"]: field["type"] for field in w["fields"]}
    for field in r["fields"]:
        names = [name for name in (field["name"], *field.get("aliases", ())) if name in written]
        if names:
            yield from _obstacles(written[names[0]], field["type"], f"{at}.{field['name']}", w_named, r_named)
        elif "default" not in field:
            yield f"{at}.{field['name']}: not written, and without a default"


def class_of(name: str) -> Any:
    """The dataclass or enum of a named Avro type."""
    return getattr(content, name) if hasattr(content, name) else getattr(records, name)
