"""A membership in librdkafka's own format."""

from confluent_kafka import Consumer
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.membership import Member
from schemas.kafka_access import KafkaAccess

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


def test_it_is_what_librdkafka_writes_for_a_consumer_that_has_not_joined() -> None:
    consumer = Consumer({**KafkaAccess("127.0.0.1:1").settings("test"), "group.id": "chat4all-toy"})
    try:
        assert Member("chat4all-toy", "", -1).metadata() == consumer.consumer_group_metadata()
    finally:
        consumer.close()


@given(NAMES, NAMES, st.integers(-1, 2**31 - 1))
def test_nothing_of_it_is_lost(group: str, name: str, generation: int) -> None:
    metadata = Member(group, name, generation).metadata()
    assert metadata[:7] == b"CGMDv2:"
    assert int.from_bytes(metadata[7:11], "little", signed=True) == generation
    assert metadata[11:].split(b"\0") == [group.encode(), name.encode(), b"\x01"]
