"""Creates and checks the topics in Kafka: those of schemas/topics.toml, the changelogs of the apps' tables, and POLLING of the gateways.

In: settings and declarations. Out: created topics, raised limits, or TopicsNotRight. Guaranteed: no topic is deleted, and no limit is
lowered. Every function blocks on Kafka; call them before an event loop runs.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from pipelines.engine.kafka_names import app_id, changelog_topic
from pipelines.stages import APPS, tables
from schemas.catalog import CHANGELOG_BYTES, KAFKAS_OWN_BYTES, TOPICS
from schemas.kafka_reachability import KafkaReachability, Unreached
from schemas.settings import Settings

log = structlog.get_logger(__name__)
REACH_SECONDS = 8.0
POLLING = "chat4all-polling"  # without records: who has its one partition polls (polling_group.py)
LIMIT = "max.message.bytes"
# Up to 0.1, each table had its own changelog.
OLD_CHANGELOG = re.compile(r"chat4all-(route|send|match|track|archive|analyse)-\w+-changelog")


class TopicsNotRight(Exception):
    """Kafka is unreachable, or a topic differs from its declaration. The sentence says what to do."""


def declared(settings: Settings) -> list[NewTopic]:
    """All topics of the product, with their partitions and settings for this deployment."""
    changelogs = [changelog_topic(app_id(app), None) for app in APPS if tables(app)]
    return [_topic(name, settings) for name in (*TOPICS, *changelogs, POLLING)]


def _topic(name: str, settings: Settings) -> NewTopic:
    """A topic of schemas/topics.toml, POLLING, else a changelog."""
    replicas = settings.replication_factor
    if name in TOPICS:
        return NewTopic(name, TOPICS[name].partitions or settings.partitions, replicas, config=TOPICS[name].config())
    if name == POLLING:
        return NewTopic(name, 1, replicas, config={"cleanup.policy": "delete", LIMIT: str(KAFKAS_OWN_BYTES)})
    compact = {
        "cleanup.policy": "compact",
        "segment.bytes": "67108864",
        "min.cleanable.dirty.ratio": "0.3",
        LIMIT: str(CHANGELOG_BYTES),
    }
    return NewTopic(name, settings.partitions, replicas, config=compact)


def create(settings: Settings) -> set[str]:
    """Creates the topics that do not exist; returns their names. Raises TopicsNotRight."""
    admin, existing = _reached(settings)
    _refuse_old_layout(existing)
    missing = [topic for topic in declared(settings) if topic.topic not in existing]
    for name, future in admin.create_topics(missing, operation_timeout=30).items() if missing else ():
        try:
            future.result(timeout=60)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another `prepare` runs at the same time
                raise TopicsNotRight(f"topic {name} could not be created: {error.args[0].str()}") from error
    return {topic.topic for topic in missing}


def raise_limits(settings: Settings, except_for: AbstractSet[str] = frozenset()) -> dict[str, int]:
    """Raises the record limit of existing topics to the declared one, in bytes. Returns the changed topics with their new limits.
    Never lowers a limit. Raises TopicsNotRight."""
    admin, existing = _reached(settings)
    wanted = {
        topic.topic: int((topic.config or {})[LIMIT])
        for topic in declared(settings)
        if topic.topic in existing.keys() - except_for
    }
    if not wanted:
        return {}
    described = admin.describe_configs([_resource(name) for name in wanted], request_timeout=30)
    found = {asked.name: int(_answer(asked.name, future)[LIMIT].value) for asked, future in described.items()}
    raised = {name: limit for name, limit in wanted.items() if found[name] < limit}
    altered = admin.incremental_alter_configs([_resource(*each) for each in raised.items()]) if raised else {}
    for asked, future in altered.items():
        _answer(asked.name, future)
        log.info("topic limit raised", topic=asked.name, before=found[asked.name], now=raised[asked.name])
    return raised


def _resource(topic: str, limit: int | None = None) -> ConfigResource:
    entries = [ConfigEntry(LIMIT, str(limit), incremental_operation=AlterConfigOpType.SET)] if limit else None
    return ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)


def _answer(topic: str, future: Future[Any]) -> Any:
    try:
        return future.result(timeout=60)
    except (KafkaException, TimeoutError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else "no answer in 60 s"
        raise TopicsNotRight(f"topic {topic}: its {LIMIT} could not be read or raised: {reason}") from error


def check(settings: Settings, wanted: set[str]) -> None:
    """Raises TopicsNotRight unless the wanted topics exist with the declared partition counts."""
    _, existing = _reached(settings)
    _refuse_old_layout(existing)
    topics = [_topic(name, settings) for name in sorted(wanted)]
    for topic in topics:
        if topic.topic not in existing:
            raise TopicsNotRight(f"topic {topic.topic} does not exist: run `python -m pipelines prepare`")
    if len({existing[topic.topic] for topic in topics}) > 1:
        return  # the engine refuses topics with different partition counts; no setting helps
    for topic in topics:
        found = existing[topic.topic]
        if found != topic.num_partitions:
            raise TopicsNotRight(
                f"topic {topic.topic} has {found} partitions, CHAT4ALL_PARTITIONS says {topic.num_partitions}: the count is fixed at "
                "creation, so set CHAT4ALL_PARTITIONS to it"
            )


def _refuse_old_layout(existing: Iterable[str]) -> None:
    """Refuses topics of 0.1: their offsets and rows belong to other groups and topics, so a worker would deliver everything again."""
    old = sorted(name for name in existing if OLD_CHANGELOG.fullmatch(name))
    if old:
        raise TopicsNotRight(
            f"topics of release 0.1 exist ({old[0]} and {len(old) - 1} more): let the workers of 0.1 finish (stop producing, wait "
            "until every lag and table `outstanding` is 0), stop them, delete all topics of Chat4All (`kafka-topics.sh --delete`), and run "
            "`python -m pipelines prepare`; or use another Kafka"
        )


def _reached(settings: Settings) -> tuple[AdminClient, Mapping[str, int]]:
    """A client, and the partition count of every existing topic."""
    reach = KafkaReachability(settings.kafka)
    # the client logs nothing: an error is reported once, as an exception
    try:
        admin = AdminClient(reach.settings("topics"))
        found = reach.metadata(admin, REACH_SECONDS).topics
    except Unreached as error:
        raise TopicsNotRight(str(error)) from error
    return admin, {name: len(topic.partitions) for name, topic in found.items()}
