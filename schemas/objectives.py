"""The latency objectives, declared once for tests, docs and reports.

Leaves: OBJECTIVES. Guaranteed by a test: a histogram of schemas/metrics.py or a percentile of a ClickHouse report measures each of them.
The limit is a bucket of the histogram, so the number of cases within it is a count and not an interpolation.
"""

from dataclasses import dataclass

from prometheus_client import Histogram

from schemas import metrics


@dataclass(frozen=True, slots=True)
class Objective:
    """The share `share` (0 to 1) of all cases takes at most `seconds`. `measured_by` is a histogram, or "<report>.<column>" in
    ClickHouse."""

    name: str
    about: str
    measured_by: Histogram | str
    seconds: float
    share: float = 0.99


OBJECTIVES = (
    Objective(
        name="accept_to_sent",
        about="From the acceptance by route to the acceptance by the provider, if nothing is throttled or scheduled.",
        measured_by="report_delivery.accept_to_sent_p99_ms",
        seconds=1.0,
    ),
    Objective(
        name="turn",
        about="Decision and commit of a turn of any stage.",
        measured_by=metrics.TURN_SECONDS,
        seconds=0.1,
    ),
    Objective(
        name="provider_call",
        about="One call to a provider, with any outcome.",
        measured_by=metrics.CALL_SECONDS,
        seconds=2.5,
    ),
    Objective(
        name="webhook",
        about="Our answer to a provider's webhook, sent after Kafka has acknowledged everything in it.",
        measured_by=metrics.WEBHOOK_SECONDS,
        seconds=0.25,
    ),
    Objective(
        name="takeover",
        about="Fencing and restore of the partitions that a worker takes over.",
        measured_by=metrics.RESTORE_SECONDS,
        seconds=10.0,
    ),
)
