"""The relations that `chat4all check` compares row by row: PostgreSQL's with ClickHouse's, and ClickHouse's facts among themselves.

Enters: a CheckedRange. Leaves: checks. Signals (typing, mark_read) are left out: stage analyse does not store them. Times are compared in
milliseconds, ids in the form of PostgreSQL's key columns.
"""

from collections.abc import Sequence

from schemas.records import SIGNALS
from sinks.check_look import IN_POSTGRES, CheckedRange, literal, stored_text
from sinks.check_sides import Contents, SameRows, Side, equal

_PG_HOUR = "floor(extract(epoch from accepted_at) / 3600)::bigint"
_CH_HOUR = "toInt64(floor(toUnixTimestamp64Milli(accepted_at) / 3600000))"
_TIMES = ("sent_at", "delivered_at", "read_at", "failed_at", "stalled_at")
_CHANNEL = "toString(channel)"
_NO_SIGNALS = f"kind not in ({', '.join(map(literal, SIGNALS))})"
_ATTEMPTS = "cause in ('ACCEPTED', 'RETRY_LATER', 'EXHAUSTED', 'UNKNOWN', 'REJECTED', 'RESENT') and attempt > 0"


def _pg_ms(column: str) -> str:
    return f"coalesce(((extract(epoch from {column}) * 1000)::bigint)::text, '-')"


def _ch_ms(column: str) -> str:
    return f"ifNull(toString(toUnixTimestamp64Milli({column})), '-')"


def _joined(parts: Sequence[str]) -> str:
    return " || '|' || ".join(parts)


def row_checks(scope: CheckedRange) -> list[SameRows]:
    """The checks that compare rows, in the order in which they are shown."""
    return [_deliveries(scope), _events(scope), _accepted(scope), _attempts(scope)]


def _deliveries(scope: CheckedRange) -> SameRows:
    pg = _joined(["status", "seq::text", "attempts::text", "resends::text", *map(_pg_ms, _TIMES)])
    ch = _joined(["toString(status)", "toString(seq)", "toString(attempts)", "toString(resends)", *map(_ch_ms, _TIMES)])
    return SameRows(
        "deliveries",
        "deliveries by tenant, channel, hour, status and times: PostgreSQL and ClickHouse",
        Side(
            "PostgreSQL",
            "postgres",
            f"select tenant_id as tenant, channel as kind, {_PG_HOUR} as hour, delivery_id as id, version, {pg} as content"  # noqa: S608  # our own names
            f" from deliveries where {IN_POSTGRES} and kind <> all(%(signals)s)",
        ),
        Side(
            "ClickHouse",
            "clickhouse",
            _from_clickhouse("deliveries final", (_CHANNEL, "version", ch), scope, _NO_SIGNALS),
        ),
        scope,
        latest=True,
    )


def _events(scope: CheckedRange) -> SameRows:
    pg = _joined(["status", "previous_status", "cause", _pg_ms("occurred_at"), _pg_ms("observed_at"), "attempts::text"])
    words = [f"toString({name})" for name in ("status", "previous_status", "cause")]
    ch = _joined([*words, _ch_ms("occurred_at"), _ch_ms("observed_at"), "toString(attempts)"])
    signal = (
        "exists (select from deliveries d where d.tenant_id = e.tenant_id and d.delivery_id = e.delivery_id"
        " and d.accepted_at = e.accepted_at and d.kind = any(%(signals)s))"
    )
    return SameRows(
        "transitions",
        "transitions by tenant, status and hour: PostgreSQL and ClickHouse",
        Side(
            "PostgreSQL",
            "postgres",
            f"select tenant_id as tenant, status as kind, {_PG_HOUR} as hour, delivery_id as id, version, {pg} as content"  # noqa: S608  # our own names
            f" from delivery_events e where {IN_POSTGRES} and not {signal}",
        ),
        Side(
            "ClickHouse",
            "clickhouse",
            _from_clickhouse("delivery_events", ("toString(status)", "version", ch), scope, _NO_SIGNALS),
        ),
        scope,
    )


def _accepted(scope: CheckedRange) -> SameRows:
    """A delivery of before `accepted_deliveries` existed has events without a batch."""
    accepted = _from_clickhouse("accepted_deliveries", (_CHANNEL, "1", "'accepted'"), scope, _NO_SIGNALS)
    created = "if(batch = 0, 'before', 'accepted')"
    return SameRows(
        "accepted",
        "accepted deliveries: ClickHouse's copy of the conversation log and its first transitions",
        Side("conversation log", "clickhouse", accepted),
        Side(
            "transitions",
            "clickhouse",
            _from_clickhouse("delivery_events", (_CHANNEL, "1", created), scope, f"version = 1 and {_NO_SIGNALS}"),
        ),
        scope,
        same=_same_or_older,
    )


def _same_or_older(left: Contents, right: Contents) -> bool:
    return equal(left, right) or (len(left) <= 1 and [content for _, content in right] == ["before"])


def _attempts(scope: CheckedRange) -> SameRows:
    columns = (_CHANNEL, "version", _joined(["toString(cause)", "toString(attempt)", "toString(throttled)"]))
    return SameRows(
        "attempts",
        "attempts and the transitions that report them, in ClickHouse",
        Side("attempts", "clickhouse", _from_clickhouse("attempts", columns, scope)),
        Side(
            "transitions",
            "clickhouse",
            _from_clickhouse("delivery_events", columns, scope, _ATTEMPTS),
        ),
        scope,
    )


def _from_clickhouse(relation: str, columns: tuple[str, str, str], scope: CheckedRange, condition: str = "") -> str:
    """`columns` are the expressions of kind, version and content."""
    tenant = stored_text("tenant_id")
    kind, version, content = columns
    more = f" and {condition}" if condition else ""
    # names with an underscore: ClickHouse would take an alias for the column of that name in the condition too
    inner = (
        f"select {tenant} as tenant_, {kind} as kind_, {_CH_HOUR} as hour_, {stored_text('delivery_id')} as id_,"  # noqa: S608  # our own names
        f" toInt32({version}) as version_, {content} as content_ from {relation} where {scope.in_clickhouse(tenant)}{more}"
    )
    names = ("tenant", "kind", "hour", "id", "version", "content")
    return f"select {', '.join(f'{name}_ as {name}' for name in names)} from ({inner})"  # noqa: S608  # our own names
