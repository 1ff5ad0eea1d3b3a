"""The settings that all of a worker's librdkafka clients share: how soon they connect again.

By default librdkafka waits up to ten seconds between two tries to reach a broker that was unavailable.
"""

from typing import Any

from confluent_kafka import KafkaError

from schemas.kafka_access import KafkaAccess

RECONNECT: dict[str, Any] = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}

# Errors that need no reaction: a client connects again by itself, and a call to a broker that stays unavailable fails by itself.
PASSING = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT})  # noqa: SLF001  # no public names


def settings(kafka: KafkaAccess, client: str, **more: Any) -> dict[str, Any]:
    """As KafkaAccess.settings, with the settings of RECONNECT."""
    return RECONNECT | kafka.settings(client, **more)
