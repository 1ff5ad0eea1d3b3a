"""Classifies errors of the gateway's producer: can Kafka ever store this record? No I/O.

In: an error of librdkafka. Out: temporary or permanent. Temporary: time, the broker, an operator or a new producer may remove the cause
(a time-out, a missing topic, a missing right), so the provider sends the record again. Permanent: each retry would fail in the same
way (too large, malformed). Guaranteed: an unknown error counts as temporary, so that no record is lost by mistake.
"""

from typing import Final

from confluent_kafka import KafkaError

TOO_LARGE = "too_large_for_kafka"
REFUSED = "refused_by_kafka"
PERMANENT: Final = {
    KafkaError.MSG_SIZE_TOO_LARGE: TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE: TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: TOO_LARGE,
    KafkaError.INVALID_RECORD: REFUSED,
    KafkaError.INVALID_TIMESTAMP: REFUSED,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: REFUSED,
    KafkaError.POLICY_VIOLATION: REFUSED,
    KafkaError.TOPIC_EXCEPTION: REFUSED,  # not a valid topic name
    KafkaError._BAD_MSG: REFUSED,  # noqa: SLF001  # names of librdkafka's own errors begin with _
    KafkaError._INVALID_ARG: REFUSED,  # noqa: SLF001  # the same
}
# The broker refuses a whole batch: with these errors, another record of the batch may be the cause.
_OF_THE_BATCH: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.POLICY_VIOLATION,
        KafkaError._INVALID_DIFFERENT_RECORD,  # noqa: SLF001  # the same
    }
)


def cause(error: KafkaError) -> str | None:
    """The dead-letter cause if Kafka can never store the record; None for a temporary error."""
    if error.fatal() or error.retriable():
        return None
    return PERMANENT.get(error.code())


def is_of_the_batch(error: KafkaError) -> bool:
    """Whether another record of the batch may be the cause: retried in a smaller batch or alone, this one may be stored."""
    return error.code() in _OF_THE_BATCH and not error.fatal()


def is_of_the_producer(error: KafkaError) -> bool:
    """Whether this producer can never send again and must be replaced."""
    return error.fatal() or error.code() == KafkaError._FATAL  # noqa: SLF001  # the same
