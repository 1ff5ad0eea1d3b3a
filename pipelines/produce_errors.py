"""What an error of the gateway's producer means for a record: whether the same record can ever be kept. Pure, no I/O.

Temporary is whatever time, the broker or a new producer mends: the record is to come again. Permanent is what librdkafka does not try
again and what the next try would hear as well: too large, malformed. A topic that is not there and a right that is missing are for an
operator to mend, and every record would suffer: temporary. So is an error nobody knows, for then nothing is lost by mistake.
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
    KafkaError.TOPIC_EXCEPTION: REFUSED,  # no valid name of a topic
    KafkaError._BAD_MSG: REFUSED,  # noqa: SLF001  # the names of librdkafka's own errors begin so
    KafkaError._INVALID_ARG: REFUSED,  # noqa: SLF001  # the same
}
# The broker refuses a batch whole: with these, the fault may be another record's.
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
    """The cause of the dead letter when the record can never be kept; None when it is to come again."""
    if error.fatal() or error.retriable():
        return None
    return PERMANENT.get(error.code())


def is_of_the_batch(error: KafkaError) -> bool:
    """Whether a record beside this one may be to blame: tried with fewer others, or alone, it may be kept."""
    return error.code() in _OF_THE_BATCH and not error.fatal()


def is_of_the_producer(error: KafkaError) -> bool:
    """Whether this producer can never send anything again: a new one is needed."""
    return error.fatal() or error.code() == KafkaError._FATAL  # noqa: SLF001  # the same
