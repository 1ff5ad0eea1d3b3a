"""Every error of the gateway's producer is temporary or permanent: a table of cases."""

import pytest
from confluent_kafka import KafkaError

from pipelines import produce_errors
from schemas.causes import DESCRIPTIONS

TOO_LARGE = ["MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "RECORD_LIST_TOO_LARGE"]
REFUSED = [
    "INVALID_RECORD",
    "INVALID_TIMESTAMP",
    "UNSUPPORTED_FOR_MESSAGE_FORMAT",
    "POLICY_VIOLATION",
    "TOPIC_EXCEPTION",
    "_BAD_MSG",
    "_INVALID_ARG",
]
TEMPORARY = [
    "UNKNOWN_TOPIC_OR_PART",  # an operator must repair it, as the next three
    "TOPIC_AUTHORIZATION_FAILED",
    "_UNKNOWN_TOPIC",
    "_UNKNOWN_PARTITION",
    "_QUEUE_FULL",
    "_MSG_TIMED_OUT",
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_TRANSPORT",
    "_ALL_BROKERS_DOWN",
    "_RESOLVE",
    "_SSL",
    "_AUTHENTICATION",
    "_PURGE_QUEUE",
    "_PURGE_INFLIGHT",
    "_FATAL",
    "_STATE",
    "_INVALID_DIFFERENT_RECORD",
    "INVALID_MSG",  # a wrong checksum: the next attempt is another request
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION",
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "REQUEST_TIMED_OUT",
    "NETWORK_EXCEPTION",
    "KAFKA_STORAGE_ERROR",
    "COORDINATOR_NOT_AVAILABLE",
    "THROTTLING_QUOTA_EXCEEDED",
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "UNKNOWN_PRODUCER_ID",
    "INVALID_PRODUCER_EPOCH",
    "SASL_AUTHENTICATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",  # of the whole producer: not even a dead letter could be stored
    "UNKNOWN",
]
CASES = {
    **dict.fromkeys(TOO_LARGE, "too_large_for_kafka"),
    **dict.fromkeys(REFUSED, "refused_by_kafka"),
    **dict.fromkeys(TEMPORARY),
}


@pytest.mark.parametrize(("name", "cause"), CASES.items())
def test_an_error_is_temporary_or_permanent(name: str, cause: str | None) -> None:
    assert produce_errors.cause(KafkaError(getattr(KafkaError, name))) == cause


def test_only_the_errors_in_the_table_are_permanent_and_each_has_its_cause() -> None:
    assert {code: produce_errors.PERMANENT[code] for code in produce_errors.PERMANENT} == {
        getattr(KafkaError, name): cause for name, cause in CASES.items() if cause
    }
    assert set(produce_errors.PERMANENT.values()) <= set(DESCRIPTIONS)


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._BAD_MSG])
def test_what_librdkafka_calls_fatal_or_retriable_is_temporary_whatever_its_code(code: int) -> None:
    fatal, retriable = KafkaError(code, "fatal", True), KafkaError(code, "again", False, True)
    assert (fatal.fatal(), retriable.retriable()) == (True, True)
    assert (produce_errors.cause(fatal), produce_errors.cause(retriable)) == (None, None)


@pytest.mark.parametrize(
    ("error", "is_broken"),
    [
        (KafkaError(KafkaError._FATAL), True),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "fatal", True), True),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN), False),
        (KafkaError(KafkaError._MSG_TIMED_OUT), False),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), False),
    ],
    ids=repr,
)
def test_a_new_producer_is_needed_after_a_fatal_error_only(error: KafkaError, is_broken: bool) -> None:
    assert produce_errors.is_of_the_producer(error) == is_broken


def test_what_the_size_of_a_batch_may_explain_is_tried_with_fewer_others() -> None:
    doubtful = {name for name in CASES if produce_errors.is_of_the_batch(KafkaError(getattr(KafkaError, name)))}
    assert doubtful > {*TOO_LARGE, "INVALID_RECORD", "_INVALID_DIFFERENT_RECORD"}
    assert doubtful.isdisjoint({"_UNKNOWN_TOPIC", "TOPIC_AUTHORIZATION_FAILED", "_MSG_TIMED_OUT", "_QUEUE_FULL"})
