"""The contracts agree: schemas with the record classes, examples with the schemas, topics with the stages."""

import ast
import dataclasses
import io
import json
import struct
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import fastavro
import pytest

from connectors.registry import CHANNELS
from pipelines.stages import BUILDERS
from schemas import codec, records
from schemas.catalog import ROOM, SCHEMAS, TOPICS, Schema, newest, record_bytes
from schemas.settings import Settings
from tests.support.avro_rules import class_of
from tests.support.examples import as_json, datum

EXAMPLES = sorted((ROOM / "examples").glob("*/*.json"))
SCALARS = {"string": str, "int": int, "long": int, "double": float, "boolean": bool, "bytes": bytes}
STAGES = set(BUILDERS)
OUTSIDE = {"applications", "gateway", "operator"}
# key -> the fields it is made from (schemas/keys.py)
MADE_OF = {
    "conversation_key": {"tenant_id", "conversation_id"},
    "contact_key": {"tenant_id", "user_id"},
    "cursor_key": {"tenant_id", "conversation_id", "member"},
    "suppression_key": {"tenant_id", "channel", "account", "address"},
}
EVERY_CHANNEL = {name: "7000000001:made-up" for channel in CHANNELS.values() for name in channel.send_settings}

by_name = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: f"{s.name}.v{s.version}")


def nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a schema: records, fields, enums, arrays, annotated primitives."""
    if isinstance(node, Mapping):
        yield node
        node = [value for key, value in node.items() if key != "default"]
    if isinstance(node, list):
        for inner in node:
            yield from nodes(inner)


def _only(shown: Any, example: Any) -> Any:
    """What is shown, without fields that newer versions added to it or to its parts."""
    if isinstance(example, dict) and isinstance(shown, dict):
        return {name: _only(shown[name], value) for name, value in example.items()}
    if isinstance(example, list) and isinstance(shown, list) and len(shown) == len(example):
        return [_only(*each) for each in zip(shown, example, strict=True)]
    return shown


# --- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_example_is_written_by_its_schema_and_read_as_a_typed_record(path: Path) -> None:
    schema = next(s for s in SCHEMAS if f"{s.name}.v{s.version}" == path.parent.name)
    example = json.loads(path.read_text(encoding="utf-8"))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, dict(schema.definition), datum(schema.definition, example))
    wire = struct.pack(">bI", 0, schema.id) + out.getvalue()
    record = codec.decode_any(wire)
    assert type(record).__name__ == schema.record
    shown = as_json(record)
    assert _only(shown, example) == example
    if schema is newest(schema.record):
        assert codec.encode(record) == wire


def test_every_version_has_two_examples_or_more_and_no_other_folder_exists() -> None:
    per_folder = Counter(path.parent.name for path in EXAMPLES)
    versions = {f"{s.name}.v{s.version}" for s in SCHEMAS}
    assert set(per_folder) == versions
    assert min(per_folder.values()) >= 2


# --- schemas and typed records ---------------------------------------------------------------------------------------


def expected_hint(node: Any) -> Any:
    """The Python type that a schema's type must have in records.py."""
    match node:
        case ["null", branch]:
            return expected_hint(branch) | None
        case str():
            return SCALARS.get(node) or class_of(node)
        case {"type": "array", "items": items}:
            return types.GenericAlias(tuple, (expected_hint(items), ...))
        case {"type": "map", "values": values}:
            return types.GenericAlias(Mapping, (str, expected_hint(values)))
        case {"type": "record" | "enum"}:
            return expected_class(node)
        case _:
            return SCALARS[node["type"]]


def expected_class(node: Mapping[str, Any]) -> type[Any]:
    """The dataclass or enum of a named type, after a comparison with it."""
    cls: type[Any] = class_of(node["name"])
    if node["type"] == "record":
        assert_same_fields(node, cls)
    else:
        assert issubclass(cls, StrEnum)
        assert [str(symbol) for symbol in cls] == node["symbols"]
        assert [symbol.name for symbol in cls] == node["symbols"]
    return cls


def assert_same_fields(definition: Mapping[str, Any], cls: type[Any]) -> None:
    fields = dataclasses.fields(cls)
    hints = typing.get_type_hints(cls)
    assert [f.name for f in fields] == [f["name"] for f in definition["fields"]]
    for ours, declared in zip(fields, definition["fields"], strict=True):
        place = f"{cls.__name__}.{ours.name}"
        assert hints[ours.name] == expected_hint(declared["type"]), place
        assert has_default(ours) == ("default" in declared), place
        if has_default(ours):
            assert as_json(default_of(ours)) == declared["default"], place


def has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def default_of(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@pytest.mark.parametrize("record", typing.get_args(records.Record), ids=lambda cls: cls.__name__)
def test_a_typed_record_has_the_fields_of_its_newest_schema(record: type[Any]) -> None:
    assert_same_fields(newest(record.__name__).definition, record)


def test_every_record_has_a_class_and_every_class_a_schema() -> None:
    assert {s.record for s in SCHEMAS} == {cls.__name__ for cls in typing.get_args(records.Record)}


@by_name
def test_records_fields_and_enums_have_a_doc(schema: Schema) -> None:
    for node in nodes(schema.definition):
        if "name" in node:
            assert len(node.get("doc", "")) > 4, f"{schema.name}: {node['name']} has no doc"
            assert node["doc"].endswith("."), f"{schema.name}: {node['name']}: a doc is a sentence"


@by_name
def test_times_are_milliseconds_and_nothing_else_is_a_logical_type(schema: Schema) -> None:
    for node in nodes(schema.definition):
        if "logicalType" in node:
            assert (node["type"], node["logicalType"]) == ("long", "timestamp-millis")
    for field in schema.definition["fields"]:
        is_time = any(inner.get("logicalType") for inner in nodes(field["type"]))
        assert is_time == ("Unix time, milliseconds" in field["doc"]), field["name"]
        named_as_time = field["name"].endswith("_at") or field["name"] in {"not_before", "source_timestamp"}
        assert is_time == named_as_time, field["name"]


@by_name
def test_the_tenant_is_the_first_field_of_every_record(schema: Schema) -> None:
    tenant = schema.definition["fields"][0]
    assert (tenant["name"], tenant["type"], tenant["default"]) == ("tenant_id", "string", "default")


def test_a_named_type_means_the_same_in_every_schema() -> None:
    seen: dict[str, Mapping[str, Any]] = {}
    for schema in SCHEMAS:
        if schema is not newest(schema.record):
            continue
        for node in nodes(schema.definition):
            if "symbols" in node or "fields" in node:
                assert seen.setdefault(node["name"], node) == node, f"{schema.name}: {node['name']}"


def test_ids_are_unique_and_pinned_and_every_pinned_one_is_used() -> None:
    pinned = tomllib.loads((ROOM / "topics.toml").read_text(encoding="utf-8"))["schema_ids"]
    assert len(set(pinned.values())) == len(pinned)
    assert {f"{s.name}.v{s.version}": s.id for s in SCHEMAS} == pinned
    per_record = Counter(s.name for s in SCHEMAS)
    for name, count in per_record.items():
        assert sorted(s.version for s in SCHEMAS if s.name == name) == list(range(1, count + 1)), name


# --- topics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda t: t.name)
def test_a_topic_is_well_formed(topic: Any) -> None:
    assert topic.about.endswith(".")
    assert topic.records
    assert set(topic.records) <= {s.name for s in SCHEMAS}
    assert topic.partitions is None or topic.partitions > 0
    assert topic.policy in {"delete", "compact"}
    assert (topic.retention_days is not None) == (topic.policy == "delete")
    assert topic.producers
    assert set(topic.producers) <= STAGES | OUTSIDE
    assert set(topic.consumers) <= STAGES
    fields = {f["name"] for s in SCHEMAS if s.name in topic.records for f in s.definition["fields"]}
    assert topic.name == "dead-letters" or (MADE_OF.get(topic.key) or set(topic.key.split(":"))) <= fields


def test_every_record_has_a_topic() -> None:
    assert {name for topic in TOPICS.values() for name in topic.records} == {s.name for s in SCHEMAS}


def read_by(stage: str) -> set[str]:
    """The topics that a stage reads: its sources, and the topics it mirrors."""
    built = BUILDERS[stage](Settings.model_validate({"kafka_url": "127.0.0.1:1", **EVERY_CHANNEL}))
    return {source.topic for source in built.sources} | {mirrored.topic for mirrored in built.mirrored}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_reads_what_the_topics_say(stage: str) -> None:
    assert read_by(stage) == {topic.name for topic in TOPICS.values() if stage in topic.consumers}


def written_by(stage: str) -> set[str]:
    """Topics that a stage's modules name where they make outputs. `record.topic` produces a record to its own topic again."""
    sources = sorted((ROOM.parent / "pipelines").glob(f"{stage}*.py"))
    trees = [ast.parse(source.read_text(encoding="utf-8")) for source in sources]
    found = {"dead-letters"}  # the engine writes them for every stage
    for call in (node for tree in trees for node in ast.walk(tree)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Output"):
            continue
        match call.args[0]:
            case ast.Constant(value=str(name)):
                found.add(name)
            case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), *_]):
                found |= {topic for topic in TOPICS if topic.startswith(prefix)}
            case ast.Attribute(attr="topic"):  # an erasure is never produced again: it names its partition
                found |= {source.topic for source in BUILDERS[stage](Settings()).sources} - {"erasures"}
            case other:
                raise AssertionError(f"{stage}: an output to {ast.unparse(other)} cannot be checked")
    return found


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_writes_what_the_topics_say(stage: str) -> None:
    assert written_by(stage) == {topic.name for topic in TOPICS.values() if stage in topic.producers}


def test_the_gateway_writes_what_the_topics_say() -> None:
    text = (ROOM.parent / "pipelines" / "gateway.py").read_text(encoding="utf-8")
    literals = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)}
    declared = {topic.name for topic in TOPICS.values() if "gateway" in topic.producers}
    assert declared
    assert declared <= literals


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda t: t.name)
def test_a_topic_takes_what_a_producer_may_send(topic: Any) -> None:
    """A value of 1 MiB with its key and headers. Kafka's own limit also counts the batch around it."""
    assert record_bytes(topic.name) >= 1_048_576 + 100_000
    assert topic.config()["max.message.bytes"] == str(topic.max_bytes)


@pytest.mark.parametrize(
    ("topic", "limit"),
    [
        ("messages", 2_096_128),
        ("dead-letters", 4_193_280),
        ("deliveries.telegram", 1_309_696),
        ("chat4all-core-changelog", 2_096_128),
        ("not-ours", 1_047_564),
    ],
)
def test_the_largest_record_of_any_topic_is_known(topic: str, limit: int) -> None:
    assert record_bytes(topic) == limit
