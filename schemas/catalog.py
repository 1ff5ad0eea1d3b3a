"""The data files of this package, loaded once at import: topics.toml and avro/<record>.v<n>.avsc.

Every topic is declared in topics.toml only: workers create topics from it, and tests and tools read it. Nothing blocks after the import.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.records import CHANNELS

ROOM = Path(__file__).parent
EACH_CHANNEL = "<channel>"  # in a topic's name: one topic for every channel
CHANGELOG_BYTES = 2_097_152  # max.message.bytes of every changelog, and so the limit of a table's row
KAFKAS_OWN_BYTES = 1_048_588  # Kafka's default of max.message.bytes
OVERHEAD_BYTES = 1_024  # the part of max.message.bytes that a batch of one record needs beside key, value and headers
_FILE = re.compile(r"(?P<name>[a-z_]+)\.v(?P<version>\d+)\.avsc")


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one record. `id` is its schema id in Kafka values; `record` its Avro name; `definition` the parsed .avsc file."""

    name: str
    version: int
    id: int
    record: str
    definition: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic, as topics.toml declares it. `partitions` is None if the topic has the deployment's partition count (CHAT4ALL_PARTITIONS).
    `retention_days` is None for a compacted topic; `max_bytes` is Kafka's max.message.bytes."""

    name: str
    about: str
    key: str
    records: tuple[str, ...]
    partitions: int | None
    policy: Literal["delete", "compact"]
    retention_days: int | None
    max_bytes: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]

    def config(self) -> dict[str, str]:
        """The topic's configuration, with Kafka's names and values."""
        config = {"cleanup.policy": self.policy, "max.message.bytes": str(self.max_bytes)}
        if self.retention_days is not None:
            config["retention.ms"] = str(self.retention_days * 86_400_000)
        return config


def _load_schemas(ids: Mapping[str, int]) -> tuple[Schema, ...]:
    found = []
    for path in sorted((ROOM / "avro").glob("*.avsc")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name}: name it <record>.v<n>.avsc")
        definition = json.loads(path.read_text(encoding="utf-8"))
        name, version = match["name"], int(match["version"])
        found.append(Schema(name, version, ids[f"{name}.v{version}"], definition["name"], definition))
    return tuple(found)


def _load_topics(declared: Mapping[str, Mapping[str, Any]]) -> dict[str, Topic]:
    named = {
        name.replace(EACH_CHANNEL, channel): (entry, channel)
        for name, entry in declared.items()
        for channel in (CHANNELS if EACH_CHANNEL in name else [""])
    }
    return {
        name: Topic(
            name=name,
            about=entry["about"].replace(EACH_CHANNEL, channel),
            key=entry["key"],
            records=tuple(entry["records"]),
            partitions=entry["partitions"] if isinstance(entry["partitions"], int) else None,
            policy=entry["policy"],
            retention_days=entry.get("retention_days"),
            max_bytes=entry["max_bytes"],
            producers=tuple(entry["producers"]),
            consumers=tuple(entry["consumers"]),
        )
        for name, (entry, channel) in named.items()
    }


_declared = tomllib.loads((ROOM / "topics.toml").read_text(encoding="utf-8"))
SCHEMAS: tuple[Schema, ...] = _load_schemas(_declared["schema_ids"])
TOPICS: dict[str, Topic] = _load_topics(_declared["topics"])


def newest(record: str) -> Schema:
    """The newest version of a record, by its Avro name. Raises ValueError if there is no such record."""
    return max((s for s in SCHEMAS if s.record == record), key=lambda s: s.version)


def record_bytes(topic: str) -> int:
    """The limit of a record on the topic: bytes of key, value and headers together. Also works for changelogs and for topics that are not
    ours."""
    if topic in TOPICS:
        return TOPICS[topic].max_bytes - OVERHEAD_BYTES
    return (CHANGELOG_BYTES if topic.endswith("-changelog") else KAFKAS_OWN_BYTES) - OVERHEAD_BYTES
