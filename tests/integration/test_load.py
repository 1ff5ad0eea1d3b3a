"""The load on a real Kafka: its log has exactly the records that the topics have."""

import json
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from loadgen.load_producer import Load, LoadFailed, Progress
from schemas import codec
from schemas.kafka_access import KafkaAccess
from schemas.records import Contact, Conversation, Message

PARTITIONS = 4


@pytest.fixture
def prefix(kafka_url: str, unique: str) -> str:
    """A prefix under which the three topics exist."""
    topics = [NewTopic(f"{unique}-{name}", PARTITIONS, 1) for name in ("messages", "contacts", "conversations")]
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))  # must outlive its futures
    for made in admin.create_topics(topics).values():
        made.result(20)
    return f"{unique}-"


def _read(kafka_url: str, topic: str) -> list[KafkaMessage]:
    consumer = Consumer({**KafkaAccess(kafka_url).settings("test"), "group.id": topic, "enable.auto.commit": False})
    places = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)]
    total = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    consumer.assign(places)
    found: list[KafkaMessage] = []
    while len(found) < total:
        found += consumer.consume(total - len(found), timeout=10)
    consumer.close()
    return found


def _load(kafka_url: str, log: Path, prefix: str, **more: float) -> Load:
    return Load(
        kafka=KafkaAccess(kafka_url),
        run_id="r1",
        seed=3,
        count=int(more.pop("count", 500)),
        rate=more.pop("rate", 0.0),
        log=log,
        channels=("whatsapp", "telegram"),
        conversations=20,
        topic_prefix=prefix,
        **more,  # type: ignore[arg-type]  # shares only
    )


def test_the_log_is_what_kafka_holds(kafka_url: str, prefix: str, tmp_path: Path) -> None:
    log = tmp_path / "load.log"
    reported: list[Progress] = []
    result = _load(kafka_url, log, prefix, group_share=0.1, duplicate_share=0.1).run(reported.append)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    records = _read(kafka_url, f"{prefix}messages")
    assert {(each["partition"], each["offset"]) for each in lines} == {
        (each.partition(), each.offset()) for each in records
    }
    originals = [each for each in lines if not each["duplicate"]]
    assert (result.messages, result.duplicates) == (500, len(lines) - 500)
    assert result.duplicates > 20
    assert result.deliveries == sum(len(each["recipients"]) for each in originals)
    assert reported[-1].acknowledged == reported[-1].produced == reported[-1].total == len(lines)
    _assert_order_and_copies(records)
    contacts = {codec.decode(each.value(), Contact).user_id for each in _read(kafka_url, f"{prefix}contacts")}
    (group,) = [codec.decode(each.value(), Conversation) for each in _read(kafka_url, f"{prefix}conversations")]
    assert len(group.members) == 20
    assert set(group.members) <= contacts


def _assert_order_and_copies(records: list[KafkaMessage]) -> None:
    values: dict[str, bytes] = {}
    newest: dict[str, str] = defaultdict(str)
    homes: dict[bytes, int] = {}
    for record in sorted(records, key=lambda each: (each.partition(), each.offset())):
        key, value, partition = record.key(), record.value(), record.partition()
        assert key is not None
        assert value is not None
        assert partition is not None
        message = codec.decode(value, Message)
        assert key.decode() == message.conversation_id
        assert homes.setdefault(key, partition) == partition
        if message.message_id in values:
            assert values[message.message_id] == value
        else:
            assert message.message_id > newest[message.conversation_id], "in order within its conversation"
            newest[message.conversation_id] = message.message_id
            values[message.message_id] = value


def test_the_rate_is_kept_evenly(kafka_url: str, prefix: str, tmp_path: Path) -> None:
    load = _load(kafka_url, tmp_path / "load.log", prefix, count=400, rate=400.0)
    reported: list[Progress] = []
    result = load.run(reported.append)
    assert 0.95 <= result.seconds < 3.0
    for each in reported[:-1]:
        assert each.produced <= 400 * each.seconds + 2, "never ahead of the rate"


def test_stop_ends_a_load_early_and_keeps_its_log_true(kafka_url: str, prefix: str, tmp_path: Path) -> None:
    log = tmp_path / "load.log"
    load = _load(kafka_url, log, prefix, count=100_000, rate=500.0)
    enough = threading.Event()
    done: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.acknowledged > 50:
            enough.set()

    thread = threading.Thread(target=lambda: done.append(load.run(watch).messages))
    thread.start()
    assert enough.wait(20)
    stopped = time.monotonic()
    load.stop()
    thread.join(20)
    assert time.monotonic() - stopped < 5
    assert done == [len(_read(kafka_url, f"{prefix}messages"))] == [len(log.read_text().splitlines())]


def test_without_topics_it_says_what_to_do(kafka_url: str, unique: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"no topic messages, contacts, conversations at .* start the stages"):
        _load(kafka_url, tmp_path / "load.log", unique).run()


def test_without_kafka_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"Kafka at 127\.0\.0\.1:9"):
        _load("127.0.0.1:9", tmp_path / "load.log", "").run()
