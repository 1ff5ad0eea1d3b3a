"""The topics of a stage: whether its sources and changelogs are usable, and whether they are still the same topics as before.

Enters: the topics as the broker describes them, and the metadata of earlier commits. Leaves: UnusableTopics, one line that says what to do.
Guaranteed: a topic that was deleted and created again is never read from old offsets and never restored as if it were the old one. Topics
are identified by their ids in Kafka; the ids of all topics of a stage are in the metadata of every offset that it commits. An offset that
an operator sets by hand has no metadata, and is accepted.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]  # exported there, not in its __all__

from pipelines.engine import client_settings, offset_metadata
from pipelines.engine.offset_metadata import OffsetMetadata
from pipelines.engine.stage import Source
from schemas.kafka_access import KafkaAccess

TopicPart = tuple[str, int]
log = structlog.get_logger(__name__)
ASK_SECONDS = 30.0
END_TRIES = 5  # a second apart, before a position is said to lie beyond the end
# errors of a broker that has just started
_PASSING = frozenset(
    {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}
)
# librdkafka's admin client never learns the new epoch of a leader that was restarted; only a new client does
_STALE = frozenset({KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH})
_AS_KAFKA_WRITES = str.maketrans("+/", "-_")
T = TypeVar("T")


class UnusableTopics(Exception):
    """A stage cannot work with one of its topics; the sentence is one line that says what to do."""


class TopicIdentity:
    """The topics of one stage, and questions about their offsets.

    All methods block for up to ASK_SECONDS (call them from a thread), except `metadata` and `set_offsets`. `check` must come before the
    others. They raise KafkaException, and where it is said UnusableTopics. `ids` is topic -> its id in Kafka, as of `check`.
    """

    def __init__(
        self, *, stage: str, kafka: KafkaAccess, group: str, sources: Sequence[Source], changelogs: Mapping[str, str]
    ) -> None:
        """`changelogs` is table -> topic."""
        self.ids: dict[str, str] = {}
        self._stage = stage
        self._kafka = kafka
        self._group = group
        self._sources = {source.topic: source for source in sources}
        self._tables = {
            topic: ", ".join(t for t, of in changelogs.items() if of == topic) for topic in changelogs.values()
        }
        self._topics = [*self._sources, *self._tables]
        self._missing: set[str] = set()
        self._client: Any = None
        self._counts: dict[str, int] = {}

    @property
    def metadata(self) -> OffsetMetadata:
        """The metadata for every offset that this stage commits. Does not block."""
        return OffsetMetadata({topic: self.ids[topic] for topic in self._topics if topic in self.ids})

    def check(self) -> None:
        """Raises UnusableTopics unless the topics exist, are co-partitioned, have the right cleanup policy, and are the same as before."""
        try:
            self._asked(self._check)
        except KafkaException as error:
            raise UnusableTopics(
                f"the topics of stage {self._stage} could not be checked: {error.args[0].str()} (Kafka at {self._kafka})"
            ) from error

    def _asked(self, step: Callable[[], T]) -> T:
        """The result of `step`, which is repeated while a broker has just started or a partition has just moved."""
        end = time.monotonic() + ASK_SECONDS
        while True:
            try:
                return step()
            except KafkaException as error:
                cause = error.args[0]
                if not (cause.retriable() or cause.code() in _PASSING) or time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def _check(self) -> None:
        described = dict(self._described())
        for topic in self._topics:
            if topic not in described:
                raise UnusableTopics(f"topic {topic} does not exist: run `python -m pipelines prepare`")
        self.ids = {topic: _id(found) for topic, found in described.items()}
        self._counts = {topic: len(found.partitions) for topic, found in described.items()}
        self._check_counts(self._counts)
        self._check_policies()
        self._check_ids()

    def lost(self) -> str | None:
        """One line about a topic that was deleted or created again since `check`; None while all are the same. A topic counts as deleted
        when two calls in a row do not find it: a broker that has just started may not know it yet."""
        described = dict(self._described())
        missing = set(self._topics) - set(described)
        for topic in missing & self._missing:
            return f"topic {topic} was deleted: `python -m pipelines prepare` creates it again, and the next start says what to do"
        self._missing = missing
        for topic, found in described.items():
            if _id(found) != self.ids[topic]:
                return self._recreated(topic, self.ids[topic], _id(found))
        return None

    def deleted(self, positions: Mapping[TopicPart, int]) -> dict[TopicPart, int]:
        """The first offset that is left, for each position whose records Kafka has deleted. Raises UnusableTopics for a position beyond the
        end."""
        for left in reversed(range(END_TRIES)):
            bounds = self._asked(lambda: self._bounds(positions))
            beyond = [source for source, at in positions.items() if at > bounds[source][1]]
            if not beyond:
                return {source: bounds[source][0] for source, at in positions.items() if 0 <= at < bounds[source][0]}
            if left:
                time.sleep(1.0)  # a new leader of a partition learns its true end a moment late
        topic, partition = beyond[0]
        raise UnusableTopics(
            f"stage {self._stage} has read {topic} {partition} up to offset {positions[beyond[0]]}, and it ends at "
            f"{bounds[beyond[0]][1]}: Kafka has lost records, or the topic was created again; stop the workers of the stage, set where "
            f"to continue, {self.set_offsets('--to-latest', topic)} (a sink keeps its own offsets, too), and start again"
        )

    def first(self, partitions: Iterable[TopicPart]) -> dict[TopicPart, int]:
        """The first offset of each partition."""
        return self._asked(lambda: self._offsets(partitions, OffsetSpec.earliest()))  # type: ignore[no-untyped-call]  # confluent-kafka types them in part

    def stable_ends(self, partitions: Iterable[TopicPart]) -> dict[TopicPart, int]:
        """The last stable offset of each partition: where a reader of committed records ends, before the first open transaction."""
        return self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # confluent-kafka types them in part

    def ends(self, partitions: Iterable[TopicPart]) -> dict[TopicPart, int]:
        """The end of each partition, including what a reader of committed records does not see yet."""
        return self._asked(lambda: self._offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED))  # type: ignore[no-untyped-call]  # confluent-kafka types them in part

    def undecided(self, partitions: Collection[TopicPart]) -> set[TopicPart]:
        """The partitions with an open transaction among what was written to them until now."""
        ends = self.ends(partitions)
        stable = self._asked(lambda: self.stable_ends(partitions))
        return {source for source, end in ends.items() if stable[source] < end}

    def _bounds(self, partitions: Iterable[TopicPart]) -> dict[TopicPart, tuple[int, int]]:
        """First offset and end of each partition."""
        first = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # confluent-kafka types them in part
        end = self._offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]  # the same
        return {source: (first[source], end[source]) for source in first}

    def _offsets(
        self, partitions: Iterable[TopicPart], spec: Any, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[TopicPart, int]:
        asked = {TopicPartition(*source): spec for source in partitions}
        if not asked:
            return {}
        futures = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=ASK_SECONDS)
        try:
            return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
        except KafkaException as error:
            if error.args[0].code() in _STALE:
                self._client = None
            raise

    def set_offsets(self, where: str, topic: str | None = None) -> str:
        """The command with which an operator sets the offsets from which the stage continues. Does not block."""
        scope = "--all-topics" if topic is None else f"--topic {topic}"
        return (
            f"`kafka-consumer-groups.sh --bootstrap-server {self._kafka} --group {self._group} --reset-offsets {where} {scope} "
            "--execute`"
        )

    @property
    def _admin(self) -> Any:
        if self._client is None:
            self._client = AdminClient(client_settings.settings(self._kafka, "topic-identity"))
        return self._client

    def _described(self) -> Iterator[tuple[str, Any]]:
        futures = self._admin.describe_topics(TopicCollection(self._topics), request_timeout=ASK_SECONDS)
        for topic, future in futures.items():
            try:
                yield topic, future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise

    def _check_counts(self, counts: Mapping[str, int]) -> None:
        if len(set(counts.values())) == 1:
            return
        counts_text = ", ".join(f"{topic} {count}" for topic, count in counts.items())
        raise UnusableTopics(
            f"the topics of stage {self._stage} differ in their partitions ({counts_text}): the records of a key and their rows would be "
            "with different workers; delete those that are wrong, `python -m pipelines prepare` creates them again, or while it is "
            f"empty `kafka-topics.sh --bootstrap-server {self._kafka} --alter --topic TOPIC --partitions NUMBER`"
        )

    def _check_policies(self) -> None:
        asked = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in self._topics]
        futures = self._admin.describe_configs(asked, request_timeout=ASK_SECONDS)
        for resource, future in futures.items():
            try:
                policy = future.result()["cleanup.policy"].value
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise
                log.warning("cleanup policy not checked: no right to see it", topic=resource.name)
            else:
                self._check_policy(resource.name, policy)

    def _check_policy(self, topic: str, policy: str) -> None:
        if topic in self._tables:
            wanted, harm = "compact", f"Kafka deletes rows of table {self._tables[topic]} by their age"
            fit = policy == "compact"
        else:
            wanted, harm = (
                "delete",
                f"Kafka drops records that stage {self._stage} has not read, when their key comes again",
            )
            fit = "compact" not in policy or self._sources[topic].compacted
        if not fit:
            raise UnusableTopics(
                f"topic {topic} has cleanup.policy={policy}: {harm}; correct it: `kafka-configs.sh --bootstrap-server "
                f"{self._kafka} --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy={wanted}`"
            )

    def _check_ids(self) -> None:
        found = {source: ids for source, ids in self._committed_marks() if source[0] in self._sources}
        for topic, now in self.ids.items():
            # Kafka forgets the offsets of a topic with the topic: then the other sources' are asked
            own = [ids for (source, _), ids in found.items() if source == topic]
            for ids in own or found.values():
                if ids.get(topic, now) != now:
                    raise UnusableTopics(self._recreated(topic, ids[topic], now))

    def _committed_marks(self) -> Iterator[tuple[TopicPart, Mapping[str, str]]]:
        for tp in self._committed():
            yield (tp.topic, tp.partition), offset_metadata.read(tp.metadata).ids

    def _committed(self) -> Sequence[TopicPartition]:
        """What the group has committed. Uses a consumer, because librdkafka 2.16 ends the whole process when its admin client asks a
        coordinator that is still starting. Does not wait for open transactions: a crashed worker's may be open until its time-out."""
        settings = client_settings.settings(
            self._kafka, "topic-identity", group_id=self._group, enable_auto_commit=False
        )
        consumer = Consumer({**settings, "isolation.level": "read_uncommitted"})
        asked = [TopicPartition(topic, number) for topic in self._sources for number in range(self._counts[topic])]
        try:
            return [tp for tp in consumer.committed(asked, timeout=ASK_SECONDS) if tp.offset >= 0]
        finally:
            consumer.close()

    def _recreated(self, topic: str, before: str, now: str) -> str:
        table = self._tables.get(topic)
        what = f"topic {topic} was deleted and created again (its id was {before}, now {now}): "
        if table is None:
            return (
                f"{what}the offsets of stage {self._stage} belong to the old one; stop its workers, set where to read the new one, "
                f"{self.set_offsets('--to-earliest', topic)} for all of it, and start again"
            )
        return (
            f"{what}the rows of table {table} were deleted with it; to continue with its present rows stop the workers of stage "
            f"{self._stage}, "
            f"{self.set_offsets('--to-current')}, and start again"
        )


def _id(topic: Any) -> str:
    """The id of a topic, written as Kafka's own tools write it."""
    return str(topic.topic_id).translate(_AS_KAFKA_WRITES)
