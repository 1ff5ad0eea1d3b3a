"""Schemas evolve so that old and new programs can read each other's records: checked by Avro's rules, and with real bytes in both
directions."""

import copy
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.schema import parse_schema

from schemas import catalog, codec, records
from schemas.catalog import ROOM, SCHEMAS, Schema
from tests.support.avro_rules import obstacles
from tests.support.examples import datum

V1 = next(s for s in SCHEMAS if (s.name, s.version) == ("status_update", 1))
EXAMPLE = json.loads((ROOM / "examples/status_update.v1/accepted_by_the_provider.json").read_text(encoding="utf-8"))


def pairs() -> list[tuple[Schema, Schema]]:
    """Every pair of versions of a record, as writer and reader; also each version with itself."""
    return [pair for pair in itertools.product(SCHEMAS, SCHEMAS) if pair[0].name == pair[1].name]


@pytest.mark.parametrize(("writer", "reader"), pairs(), ids=lambda s: f"{s.name}.v{s.version}")
def test_every_version_reads_every_other(writer: Schema, reader: Schema) -> None:
    assert obstacles(writer.definition, reader.definition) == []
    for path in sorted((ROOM / "examples" / f"{writer.name}.v{writer.version}").glob("*.json")):
        example = datum(writer.definition, json.loads(path.read_text(encoding="utf-8")))
        read = rewritten(example, writer.definition, reader.definition)
        assert set(read) == {field["name"] for field in reader.definition["fields"]}


def rewritten(value: Any, writer: Any, reader: Any) -> Any:
    """A datum that is written with one schema and read with another."""
    out = io.BytesIO(written(value, writer))
    return fastavro.schemaless_reader(out, parsed(writer), parsed(reader))


def written(value: Any, writer: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed(writer), value)
    return out.getvalue()


def parsed(definition: Any) -> Any:
    return parse_schema(codec._without_logical_types(definition), named_schemas={})  # times as plain milliseconds


# --- changes, on a version 2 made here --------------------------------------------------------------------


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Version 1 of StatusUpdate with one change."""
    definition: dict[str, Any] = copy.deepcopy(dict(V1.definition))
    change({field["name"]: field for field in definition["fields"]} | {"": definition})
    return definition


def add_field(fields: dict[str, Any]) -> None:
    fields[""]["fields"].append({"name": "region", "type": ["null", "string"], "doc": "Where.", "default": None})


def drop_field(fields: dict[str, Any]) -> None:
    fields[""]["fields"].remove(fields["reason"])


def widen_int(fields: dict[str, Any]) -> None:
    fields["attempt"]["type"] = "long"


def add_cause(fields: dict[str, Any]) -> None:
    fields["cause"]["type"]["symbols"].append("SUPERSEDED")


def add_status(fields: dict[str, Any]) -> None:
    fields["status"]["type"]["symbols"].append("PLAYED")


def require_field(fields: dict[str, Any]) -> None:
    fields[""]["fields"].append({"name": "region", "type": "string", "doc": "Where."})


def rename_field(fields: dict[str, Any]) -> None:
    fields["delivery_id"]["name"] = "delivery"


def change_type(fields: dict[str, Any]) -> None:
    fields["home_partition"]["type"] = "string"


def forbid_null(fields: dict[str, Any]) -> None:
    fields["reason"]["type"] = "string"


@pytest.mark.parametrize("change", [add_field, drop_field])
def test_an_allowed_change_can_be_read_in_both_directions(change: Callable[[dict[str, Any]], None]) -> None:
    v2 = changed(change)
    assert obstacles(V1.definition, v2) == []
    assert obstacles(v2, V1.definition) == []
    old_read_by_new = rewritten(EXAMPLE, V1.definition, v2)
    new_read_by_old = rewritten(old_read_by_new, v2, V1.definition)
    assert old_read_by_new == {name: EXAMPLE.get(name) for name in old_read_by_new}
    assert {**EXAMPLE, **new_read_by_old} == EXAMPLE


def test_a_new_symbol_reads_as_the_enums_default() -> None:
    v2 = changed(add_cause)
    assert obstacles(v2, V1.definition) == []
    assert rewritten({**EXAMPLE, "cause": "SUPERSEDED"}, v2, V1.definition)["cause"] == "RECEIPT"


@pytest.mark.parametrize(
    ("change", "old_to_new", "new_to_old"),
    [
        (require_field, "StatusUpdate.region: not written, and without a default", ""),
        (rename_field, "StatusUpdate.delivery: not written", "StatusUpdate.delivery_id: not written"),
        (change_type, "home_partition: int cannot be read as string", "home_partition: string cannot be read as int"),
        (forbid_null, "reason: null cannot be read as string", ""),
        (add_status, "", "status: the reader knows no PLAYED"),
        (widen_int, "", "attempt: long cannot be read as int"),
    ],
)
def test_a_forbidden_change_is_noticed(
    change: Callable[[dict[str, Any]], None], old_to_new: str, new_to_old: str
) -> None:
    v2 = changed(change)
    for found, expected in ((obstacles(V1.definition, v2), old_to_new), (obstacles(v2, V1.definition), new_to_old)):
        assert bool(found) == bool(expected)
        assert not expected or expected in found[0]


@pytest.mark.parametrize("change", [require_field, rename_field, change_type])
def test_a_forbidden_change_breaks_real_bytes_too(change: Callable[[dict[str, Any]], None]) -> None:
    # the rules above are our own; this compares them with fastavro
    with pytest.raises(Exception, match=r"region|delivery|int|string"):
        rewritten(EXAMPLE, V1.definition, changed(change))


# --- the codec with two versions of a record -------------------------------------------------------------------------


def test_the_codec_reads_an_old_version_into_the_new_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1, as an older program wrote it, while a later version (without `reason`) is the newest."""
    later = Schema("status_update", 99, 9_000_001, "StatusUpdate", changed(drop_field))
    monkeypatch.setattr(catalog, "SCHEMAS", (*SCHEMAS, later))
    monkeypatch.setitem(codec._READERS, V1.id, codec._Reader(V1))
    value = V1.id.to_bytes(5, "big") + written({**EXAMPLE, "reason": "not in the later version"}, V1.definition)
    read = codec.decode(value, records.StatusUpdate)
    assert read.reason is None
    assert read.delivery_id == EXAMPLE["delivery_id"]


def test_the_codec_writes_the_newest_version() -> None:
    for record in {s.record for s in SCHEMAS}:
        newest = max((s for s in SCHEMAS if s.record == record), key=lambda s: s.version)
        writer = codec._WRITERS[getattr(records, record)]
        assert writer.header == b"\x00" + newest.id.to_bytes(4, "big")


def test_a_file_without_a_version_in_its_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "avro").mkdir()
    (tmp_path / "avro" / "message.avsc").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(catalog, "ROOM", tmp_path)
    with pytest.raises(ValueError, match=r"name it <record>\.v<n>\.avsc"):
        catalog._load_schemas({})
