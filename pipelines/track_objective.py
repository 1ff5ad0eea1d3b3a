"""Whether a delivery was sent within the objective accept_to_sent, for the alerts on it.

In: a transition. Out: late, in time, or not measured. Guaranteed: the same deliveries count as in `sla_sent_le_ms` of
sinks/ddl/clickhouse/0006_daily.sql: those that were neither scheduled nor throttled. No I/O.
"""

from schemas.objectives import OBJECTIVES
from schemas.records import DeliveryState, Status

_LIMIT_MS = round(1000 * next(each.seconds for each in OBJECTIVES if each.name == "accept_to_sent"))


def is_late(transition: DeliveryState) -> bool | None:
    """Whether this transition took a delivery to SENT, or further, too late; None when it did not, or when the objective leaves the
    delivery out."""
    if transition.previous_status is not Status.PENDING or transition.status not in {
        Status.SENT,
        Status.DELIVERED,
        Status.READ,
    }:
        return None
    if transition.sent_at is None or transition.not_before is not None or transition.throttles:
        return None
    return transition.sent_at - transition.accepted_at > _LIMIT_MS
