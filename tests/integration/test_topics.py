"""Topics on a real Kafka: what `prepare` does with existing ones; records of the declared size are accepted."""

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AdminClient,
    ConfigResource,
    NewTopic,
)

from pipelines import topics
from pipelines.engine.transactional_producer import LARGEST_RECORD
from schemas.catalog import CHANGELOG_BYTES, TOPICS, record_bytes
from schemas.kafka_access import KafkaAccess
from schemas.settings import Settings
from stack import kafka_server
from stack.service import Child
from tests.support.engine_harness import await_true

CHANGELOG = "chat4all-core-changelog"
MB_8 = 8_388_608


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A Kafka for these tests only, because the names of topics are fixed. An older release made some of them."""
    child = Child(kafka_server.service(tmp_path_factory.mktemp("topics") / "kafka", heap="512m"))
    child.start()
    child.wait()
    settings = Settings.model_validate({**child.service.settings, "partitions": 2})
    old = [NewTopic("receipts", 2, 1), NewTopic("messages", 2, 1, config={topics.LIMIT: str(MB_8)})]
    old += [NewTopic(CHANGELOG, 2, 1, config={"cleanup.policy": "compact"}), NewTopic("not-ours", 2, 1)]
    admin = _admin(settings)
    for future in admin.create_topics(old).values():
        future.result(timeout=30)
    yield settings
    child.stop()


def _admin(settings: Settings) -> AdminClient:
    return AdminClient(KafkaAccess(settings.kafka_url).settings("test"))


def limits(settings: Settings) -> dict[str, tuple[int, str]]:
    """max.message.bytes and cleanup.policy of every topic."""
    admin = _admin(settings)
    names = [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]
    asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in names])
    answers = {resource.name: future.result(timeout=30) for resource, future in asked.items()}
    return {name: (int(each[topics.LIMIT].value), each["cleanup.policy"].value) for name, each in answers.items()}


def test_prepare_raises_limits_and_never_lowers_one(settings: Settings) -> None:
    before = limits(settings)
    assert set(before) - {"not-ours"} <= {topic.topic for topic in topics.declared(settings)}
    assert before["receipts"][0] < TOPICS["receipts"].max_bytes
    topics.create(settings)
    assert topics.raise_limits(settings) == {"receipts": 1_310_720, CHANGELOG: CHANGELOG_BYTES}
    # the controller answers before the brokers have applied it
    await_true(lambda: limits(settings)[CHANGELOG][0] == CHANGELOG_BYTES, "the broker to know the limits", 10)
    after = limits(settings)
    assert after["receipts"] == (1_310_720, "delete")
    assert after[CHANGELOG] == (CHANGELOG_BYTES, "compact"), "the other settings are unchanged"
    assert (after["messages"], after["not-ours"]) == (before["messages"], before["not-ours"])
    for topic in topics.declared(settings):
        assert after[topic.topic][0] >= int((topic.config or {})[topics.LIMIT]), topic.topic
    assert topics.raise_limits(settings) == {}, "harmless to repeat"


def test_topics_of_the_old_layout_are_refused_in_one_line(settings: Settings) -> None:
    """Neither `prepare` nor a worker continues while they exist; without them both do."""
    admin = _admin(settings)
    names = ["chat4all-route-seen-changelog", "chat4all-send-outstanding-changelog"]
    for future in admin.create_topics([NewTopic(name, 2, 1) for name in names]).values():
        future.result(timeout=30)
    await_true(lambda: set(names) <= set(admin.list_topics(timeout=10).topics), "the topics to be there", 10)
    for step in (topics.create, lambda settings: topics.check(settings, {"messages"})):
        with pytest.raises(
            topics.TopicsNotRight, match=r"topics of release 0\.1 exist \(chat4all-route-seen-changelog and 1 more\)"
        ) as raised:
            step(settings)
        assert "\n" not in str(raised.value)
    for future in admin.delete_topics(names, operation_timeout=30).values():
        future.result(timeout=30)
    await_true(lambda: not set(names) & set(admin.list_topics(timeout=10).topics), "the topics to go", 30)
    topics.create(settings)


def test_a_record_of_the_size_we_say_is_taken_by_every_topic(settings: Settings) -> None:
    """Key, value and headers together have `record_bytes`, the limit of the engine and the gateway."""
    topics.create(settings)
    topics.raise_limits(settings)
    producer = Producer(
        {**KafkaAccess(settings.kafka_url).settings("test"), "message.max.bytes": LARGEST_RECORD, "linger.ms": 0}
    )
    errors: dict[str, KafkaError | None] = {}

    def note(error: KafkaError | None, message: Message) -> None:
        errors[message.topic() or ""] = error

    names = [*TOPICS, CHANGELOG, "not-ours"]
    for name in names:
        producer.produce(
            name, b"v" * (record_bytes(name) - 1_000), b"k" * 900, headers=[("h" * 50, b"v" * 50)], on_delivery=note
        )
        assert producer.flush(30) == 0
    assert errors == dict.fromkeys(names)
    assert max(topic.max_bytes for topic in TOPICS.values()) <= LARGEST_RECORD
