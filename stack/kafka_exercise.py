"""Typical requests of the product to a new Kafka, so that the classes for them are in its AOT cache.

Enters: bootstrap servers. Leaves: a topic with some records, transactions and a group. Raises KafkaException.
"""

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported there, not in its __all__

from schemas.kafka_access import KafkaAccess

TOPIC, GROUP = "exercise", "exercise"
SECONDS = 20.0


def run(url: str) -> None:
    """Creates a topic, produces in transactions, and reads as a member of a group. Blocks for some seconds."""
    admin = AdminClient(KafkaAccess(url).settings("exercise"))
    admin.create_topics([NewTopic(TOPIC, 4, 1, config={"cleanup.policy": "compact"})])[TOPIC].result(SECONDS)
    consumer = Consumer(
        {
            **KafkaAccess(url).settings("exercise"),
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
        | {"isolation.level": "read_committed"}
    )
    producer = Producer({**KafkaAccess(url).settings("exercise"), "transactional.id": GROUP})
    try:
        producer.init_transactions(SECONDS)
        for number in range(20):
            producer.begin_transaction()
            for partition in range(4):
                producer.produce(TOPIC, b"record", b"key", partition)
            place = TopicPartition(TOPIC, 0, number)
            producer.send_offsets_to_transaction([place], consumer.consumer_group_metadata(), SECONDS)
            producer.commit_transaction(SECONDS)
        consumer.subscribe([TOPIC])
        consumer.consume(40, SECONDS)
        consumer.commit(asynchronous=False)
        consumer.committed([TopicPartition(TOPIC, 0)], SECONDS)
    finally:
        consumer.close()
