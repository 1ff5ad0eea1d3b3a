"""What every client of Kafka in a worker has in common: how soon it connects again.

librdkafka's own default lets a client wait up to ten seconds between two tries to reach a broker that was away.
"""

from typing import Any

from confluent_kafka import KafkaError

from schemas.kafka_access import KafkaAccess

RECONNECT: dict[str, Any] = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}

# A client connects again by itself; a broker that stays away shows where something is asked of it.
PASSING = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT})  # noqa: SLF001  # no public names


def settings(kafka: KafkaAccess, client: str, **more: Any) -> dict[str, Any]:
    """As KafkaAccess.settings."""
    return RECONNECT | kafka.settings(client, **more)
