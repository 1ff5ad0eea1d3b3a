"""What we promise about time, declared once: tests, boards and reports read it here.

In: nothing. Out: OBJECTIVES. Guaranteed by a test: each is measured by a histogram of schemas/metrics.py or a percentile of a ClickHouse
report, and its limit is a bucket, so that "how many were in time" is a count and never an interpolation.
"""

from dataclasses import dataclass

from prometheus_client import Histogram

from schemas import metrics


@dataclass(frozen=True, slots=True)
class Objective:
    """`share` of all cases take at most `seconds`. `measured_by` is a histogram, or "<report>.<column>" in ClickHouse."""

    name: str
    about: str
    measured_by: Histogram | str
    seconds: float
    share: float = 0.99


OBJECTIVES = (
    Objective(
        name="accept_to_sent",
        about="From route's acceptance to the provider's, when nothing is throttled or scheduled.",
        measured_by="report_delivery.accept_to_sent_p99_ms",
        seconds=1.0,
    ),
    Objective(
        name="turn",
        about="Decision and commit of a turn, of any stage.",
        measured_by=metrics.TURN_SECONDS,
        seconds=0.1,
    ),
    Objective(
        name="provider_call",
        about="One call to a provider, whatever its outcome.",
        measured_by=metrics.CALL_SECONDS,
        seconds=2.5,
    ),
    Objective(
        name="webhook",
        about="Our answer to a provider's webhook, everything in it acknowledged by Kafka.",
        measured_by=metrics.WEBHOOK_SECONDS,
        seconds=0.25,
    ),
    Objective(
        name="takeover",
        about="Fence and restore of the partitions a worker takes over.",
        measured_by=metrics.RESTORE_SECONDS,
        seconds=10.0,
    ),
)
