"""What every client of Kafka in a worker has in common: how soon it connects again, and how loud it is.

librdkafka's own default lets a client wait up to ten seconds between two tries to reach a broker that was away.
"""

from typing import Any

from confluent_kafka import KafkaError

from schemas.kafka_access import KafkaAccess

RECONNECT: dict[str, Any] = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}

# A client connects again by itself; a broker that stays away shows where something is asked of it.
PASSING = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT})  # noqa: SLF001  # no public names


def settings(kafka: KafkaAccess, client: str, *, log_level: int = 3, **more: Any) -> dict[str, Any]:
    """Settings of a confluent-kafka client called `chat4all-<client>`; `more` are Kafka's names with `_` for `.`. A `log_level` of 0 is
    silent."""
    return RECONNECT | kafka.settings(client, log_level=log_level, **more)
