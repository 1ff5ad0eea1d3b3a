"""Topics that a worker refuses, and topics that are deleted while it runs: one line says what to do, and no record
is skipped silently."""

import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported there, not in its __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from pipelines.engine.kafka_names import app_id
from schemas import codec
from schemas.records import DeadLetter
from tests.support.engine_harness import (
    PARTITIONS,
    TABLES,
    Toy,
    await_true,
    check_exactly_once,
    count,
    extend,
    values,
)

COMPACT = {"cleanup.policy": "compact"}


@pytest.fixture
def toy(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka_url, unique, tmp_path, sources=("in", "more"))
    yield made
    made.stop()


def said(toy: Toy, worker: subprocess.Popen[bytes], code: int) -> str:
    """The last line of a worker, which ends with this code."""
    assert worker.wait(120) == code
    return toy.log(worker).strip().splitlines()[-1]


def delete(toy: Toy, topic: str) -> None:
    toy.admin.delete_topics([topic], operation_timeout=30)[topic].result(30)
    await_true(lambda: topic not in toy.admin.list_topics(timeout=10).topics, "the topic to be deleted", 30)


def create(toy: Toy, topic: str, partitions: int = PARTITIONS, config: dict[str, str] | None = None) -> None:
    toy.admin.create_topics([NewTopic(topic, partitions, 1, config=config or {})])[topic].result(30)


def set_policy(toy: Toy, topic: str, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    toy.admin.incremental_alter_configs([resource])[resource].result(30)
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)

    def known() -> str:
        found = toy.admin.describe_configs([asked])[asked].result(30)
        return str(found["cleanup.policy"].value)

    await_true(lambda: known() == policy, "the broker to know what the controller has accepted", 30)


def some(prefix: str, number: int = 40) -> list[tuple[str, bytes]]:
    return [(f"k{n % 8}", f"{prefix}{n}".encode()) for n in range(number)]


def run_once(toy: Toy, outputs: int, **produced: list[tuple[str, bytes]]) -> None:
    """Runs a worker until the values produced to the sources have their outputs, and stops it."""
    worker = toy.start_worker()
    for source, records in produced.items():
        toy.produce(records, source=f"{toy.name}-{source}")
    await_true(lambda: count(toy) == outputs, "the outputs", 60)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def test_topics_that_are_not_co_partitioned_are_refused(toy: Toy) -> None:
    delete(toy, f"{toy.name}-more")
    create(toy, f"{toy.name}-more", 6)
    line = said(toy, toy.start_worker(), 2)
    assert f"differ in their partitions ({toy.name}-in 4, {toy.name}-more 6, {toy.changelog('counts')} 4" in line


def test_a_changelog_that_forgets_by_age_is_refused_until_it_is_corrected(toy: Toy) -> None:
    changelog = toy.changelog("values")
    set_policy(toy, changelog, "compact,delete")
    line = said(toy, toy.start_worker(), 2)
    assert re.fullmatch(
        rf"worker: topic {changelog} has cleanup.policy=\S+: Kafka deletes rows of table values by their age; correct it: "
        rf"`kafka-configs.sh .* --entity-name {changelog} --add-config cleanup.policy=compact`",
        line,
    )
    set_policy(toy, changelog, "compact")
    toy.wait_ready(toy.start_worker())


def test_a_source_that_is_compacted_is_refused(toy: Toy) -> None:
    set_policy(toy, toy.source, "compact")
    line = said(toy, toy.start_worker(), 2)
    assert f"topic {toy.source} has cleanup.policy=compact: Kafka drops records that" in line


def test_a_source_that_was_created_again_is_refused_until_somebody_says_where_to_read(toy: Toy) -> None:
    """Between two runs: Kafka has deleted the offsets with the topic; those of the other source have the former id."""
    run_once(toy, 80, **{"in": some("a"), "more": some("b")})
    delete(toy, toy.source)
    create(toy, toy.source)
    toy.produce(some("c"))
    line = said(toy, toy.start_worker(), 2)
    assert f"topic {toy.source} was deleted and created again (its id was " in line
    assert f"--group {app_id(toy.name)} --reset-offsets --to-earliest --topic {toy.source} --execute" in line
    toy.set_offsets({(toy.source, number): 0 for number in range(PARTITIONS)})
    run_once(toy, 120)
    run_once(toy, 160, **{"in": some("d")})


def test_a_source_that_is_created_again_under_a_worker_ends_it_and_nothing_is_skipped(toy: Toy) -> None:
    """librdkafka alone would continue at the old offset, and skip the records of the new topic before it."""
    worker = toy.start_worker()
    toy.produce(some("a"))
    toy.produce(some("b"), source=f"{toy.name}-more")
    await_true(lambda: count(toy) == 80, "the outputs", 60)
    delete(toy, toy.source)
    create(toy, toy.source)
    toy.produce(some("c", 200))
    line = said(toy, worker, 3)
    # the line depends on whether the new topic was already as long as the old one when it was read next
    assert f"topic {toy.source} was deleted" in line or "no longer has the offset to read next" in line
    assert f"topic {toy.source} was deleted and created again" in said(toy, toy.start_worker(), 2)
    toy.set_offsets({(toy.source, number): 0 for number in range(PARTITIONS)})
    run_once(toy, 280)


def test_a_changelog_that_was_created_again_is_refused_until_somebody_accepts_it(toy: Toy) -> None:
    worker = toy.start_worker()
    toy.produce(some("a"))
    await_true(lambda: count(toy) == 40, "the outputs", 60)
    for table in TABLES:
        delete(toy, toy.changelog(table))
        create(toy, toy.changelog(table), config=COMPACT)
    assert re.search(rf"topic {app_id(toy.name)}-\w+-changelog was deleted", said(toy, worker, 3))
    line = said(toy, toy.start_worker(), 2)
    assert re.search(
        rf"topic {toy.changelog('counts')} was deleted .* the rows of table counts were deleted with it", line
    )
    assert "--reset-offsets --to-current --all-topics --execute" in line
    toy.set_offsets(toy.offsets())
    run_once(toy, 80, **{"in": some("a")})  # the same values: the tables no longer hold them
    assert all(
        value.startswith((b"1:", b"2:", b"3:", b"4:", b"5:")) for values in toy.outputs().values() for value in values
    )


def test_a_group_without_offsets_is_refused_when_there_are_rows(toy: Toy) -> None:
    """Kafka deletes the offsets of a group that has been empty for long: from the beginning, everything would be processed again."""
    run_once(toy, 40, **{"in": some("a")})
    offsets = toy.offsets()
    toy.admin.delete_consumer_groups([app_id(toy.name)])[app_id(toy.name)].result(30)
    line = said(toy, toy.start_worker(environment={"CHAT4ALL_STORE": "rocksdb"}), 3)
    assert "has rows in its tables" in line
    assert "--reset-offsets --to-datetime" in line
    toy.set_offsets(offsets)
    run_once(toy, 80, **{"in": some("b")})


def test_records_deleted_before_they_were_read_are_reported_and_the_stage_continues(toy: Toy) -> None:
    worker = toy.start_worker()
    toy.produce([("k0", b"first")])
    await_true(lambda: count(toy) == 1, "the first", 60)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    [(partition, before)] = [
        (number, at) for (topic, number), at in toy.offsets().items() if topic == toy.source and at
    ]
    toy.produce([("k0", b"lost%d" % n) for n in range(10)])
    toy.admin.delete_records([TopicPartition(toy.source, partition, before + 10)])[
        TopicPartition(toy.source, partition)
    ].result(30)
    worker = toy.start_worker()
    toy.produce([("k0", b"kept")])
    await_true(lambda: count(toy) == 2, "the one that was kept", 60)
    check_exactly_once(toy, {"k0": [b"first", b"kept"]})
    assert re.search(rf"records deleted before they were read.*first={before} last={before + 9}", toy.log(worker))
    letters = [codec.decode(value, DeadLetter) for _, value in toy.read("dead-letters")]
    [letter] = [letter for letter in letters if letter.stage == toy.name]
    assert (letter.cause, letter.source_partition, letter.source_offset) == ("deleted_before_read", partition, before)
    assert f"offsets {before} to {before + 9} of {toy.source} {partition}" in letter.detail


def test_an_offset_beyond_the_end_ends_the_worker(toy: Toy) -> None:
    toy.set_offsets({(toy.source, 2): 1000})
    line = said(toy, toy.start_worker(), 3)
    assert f"has read {toy.source} 2 up to offset 1000, and it ends at 0" in line
    assert toy.offsets() == {(toy.source, 2): 1000}


def test_a_disk_that_takes_no_more_ends_the_worker_and_the_next_one_goes_on(toy: Toy, tmp_path: Path) -> None:
    """A limit on the size of files simulates it: the store's log can take no more, during the work."""
    environment = {"CHAT4ALL_STORE": "rocksdb", "CHAT4ALL_DATA_DIR": str(tmp_path / "stores")}
    worker = toy.start_worker(environment=environment)
    records, expected = values("d", 40, 10)
    toy.produce(records)
    await_true(lambda: count(toy) == len(records), "the first records", 60)
    limit = 60_000  # bytes, more than any file there is
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, limit))
    more, further = values("e" * 200, 40, 100)
    extend(expected, further)
    toy.produce(more)
    line = said(toy, worker, 3)
    assert re.search(
        rf"partition \d: table store {tmp_path}/stores/{toy.name}/\w+/\d: a file may not grow further: raise", line
    )
    assert "Traceback" not in toy.log(worker)
    worker = toy.start_worker(environment=environment)
    await_true(lambda: count(toy) == len(records) + len(more), "the rest", 60)
    assert "rebuilt" not in toy.log(worker)
    check_exactly_once(toy, expected)


def test_a_worker_that_can_decide_on_nothing_stops_and_loses_nothing(toy: Toy) -> None:
    toy.produce([("k0", b"poison")] * 30 + [("k0", b"good")])
    line = said(toy, toy.start_worker(), 3)
    assert "a bug in the code of stage" in line
    assert "ValueError (support/toy_stage.py:" in line
    assert set(toy.offsets().values()) == {0}
    toy.start_worker(environment={"CHAT4ALL_POISON_LIMIT": "0"})
    await_true(lambda: count(toy) == 1, "the good one", 60)
    letters = [codec.decode(value, DeadLetter) for _, value in toy.read("dead-letters")]
    assert len([letter for letter in letters if letter.stage == toy.name]) == 30
