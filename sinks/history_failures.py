"""What went wrong, from PostgreSQL: failed deliveries by cause, attempts, receipts that changed nothing or found no delivery, dead letters;
and who may not be written to, and what operators did.

Enters: a connection of psycopg, the tenant, and what to look for. Leaves: frozen values in pages (sinks/history_pages.py). Guaranteed: only
reads, and only rows of the tenant; times are Unix milliseconds; texts are the original ones. The bytes of a dead letter are read only on
request. All functions block and use the caller's connection; they raise WrongQuestion for a wrong limit or cursor; errors of psycopg pass
through.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from sinks.history_pages import DEFAULT_LIMIT, Listing, Page, bounded, page, plain, time_of
from sinks.storable_text import key, storable

SECONDS = 10.0  # for what counts all failed deliveries of a time range
FAILED = ("FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED")
_IN_FAILED = f"status in ({', '.join(repr(status) for status in FAILED)})"


@dataclass(frozen=True, slots=True)
class FailedCause:
    """How many deliveries failed with one status and reason code (empty: none was given), by channel. `reason` is the text of one of
    them."""

    status: str
    reason_code: str
    channel: str
    deliveries: int
    last_accepted_at: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class FailedDelivery:
    """One delivery that failed, expired, was cancelled or suppressed."""

    delivery_id: str
    message_id: str
    conversation_id: str
    channel: str
    account: str
    recipient: str
    status: str
    reason_code: str | None
    reason: str | None
    attempts: int
    accepted_at: int
    failed_at: int | None


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """A call to a provider that ended, or whose end nobody saw. `outcome` is accepted, retry_later, rejected or unknown; `cause` is the
    cause of the transition."""

    version: int
    attempt: int
    outcome: str
    cause: str
    reason_code: str | None
    reason: str | None
    throttled: bool
    dispatched_at: int | None
    ended_at: int
    retry_at: int | None
    provider_message_id: str | None


@dataclass(frozen=True, slots=True)
class IgnoredReceipt:
    """A receipt that changed no status, and why. `reported` is what it said, `status` what the delivery had."""

    delivery_id: str
    version: int
    event_id: str
    reported: str
    status: str
    reason: str
    occurred_at: int
    observed_at: int


@dataclass(frozen=True, slots=True)
class UnmatchedReceipt:
    """A receipt for which no delivery was found (a row of `orphan_receipts`)."""

    event_id: str
    channel: str
    account: str
    provider_message_id: str
    status: str
    cause: str
    provider_at: int
    received_at: int
    refused_at: int
    error_code: str | None
    dead_letter_id: str


@dataclass(frozen=True, slots=True)
class ArchivedDeadLetter:
    """A dead letter. `key`, `value` and `headers` are None unless they were asked for, or if the record has none, or after an erasure
    (`erased_at`). `headers` is the JSON that the relation holds."""

    dead_letter_id: str
    stage: str
    cause: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_timestamp: int
    refused_at: int
    conversation_id: str | None
    erased_at: int | None
    key: bytes | None = None
    value: bytes | None = None
    headers: Any = None


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """What an operator did with a command. `ended_at` and `result` are None while it runs, or when it broke off."""

    action_id: str
    action: str
    operator: str
    detail: Mapping[str, Any]
    began_at: int
    ended_at: int | None
    result: Any


@dataclass(frozen=True, slots=True)
class SuppressionState:
    """Whether an account's messages to an address are suppressed, and why."""

    channel: str
    account: str
    address: str
    suppressed: bool
    reason: str
    changed_at: int


_CAUSES = f"""
    select status, coalesce(reason_code, '') as reason_code, channel, count(*) as deliveries, max(accepted_at) as last_accepted_at,
           min(reason) as reason
      from deliveries
     where tenant_id = %(tenant)s and {_IN_FAILED} and accepted_at >= %(since)s and accepted_at < %(until)s
     group by 1, 2, 3
     order by deliveries desc, status, reason_code, channel
     limit 500
"""  # noqa: S608  # words of our own
_TIMES = ("accepted_at >= %(since)s", "accepted_at < %(until)s")


def _columns(record: type[Any]) -> str:
    return ", ".join(record.__dataclass_fields__)


def failed_causes(
    connection: psycopg.Connection[Any], tenant_id: str, since: int, until: int, *, seconds: float = SECONDS
) -> tuple[FailedCause, ...]:
    """Of the deliveries accepted in [since, until) (Unix ms): how many stand failed, by status, reason code and channel, the most frequent
    first, at most 500. Raises TooSlow after `seconds`."""
    asked = {"tenant": key(tenant_id), "since": time_of(since), "until": time_of(until)}

    def ask() -> tuple[FailedCause, ...]:
        with connection.cursor(row_factory=dict_row) as running:
            return tuple(FailedCause(**plain(row)) for row in running.execute(_CAUSES.encode(), asked))

    return bounded(connection, seconds, ask, "ask for a shorter time range")


def failed_deliveries(  # each is a part of the question
    connection: psycopg.Connection[Any],
    tenant_id: str,
    since: int,
    until: int,
    *,
    status: str,
    reason_code: str,
    channel: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[FailedDelivery]:
    """The deliveries accepted in [since, until) (Unix ms) that stand failed with this status and reason code (empty: none), the newest
    first."""
    values: dict[str, Any] = {
        "tenant": key(tenant_id),
        "since": time_of(since),
        "until": time_of(until),
        "status": status,
        "reason_code": storable(reason_code),
    }
    conditions = [
        "tenant_id = %(tenant)s",
        _IN_FAILED,
        "status = %(status)s",
        "coalesce(reason_code, '') = %(reason_code)s",
        *_TIMES,
    ]
    if channel is not None:
        conditions.append("channel = %(channel)s")
        values["channel"] = channel
    listing = Listing(
        "failed",
        f"select {_columns(FailedDelivery)} from deliveries",  # noqa: S608  # column names of our own
        ("accepted_at", "delivery_id"),
        tuple(conditions),
        descending=True,
    )
    return page(connection, listing, values, lambda row: FailedDelivery(**row), limit=limit, cursor=cursor)


def attempts(
    connection: psycopg.Connection[Any],
    tenant_id: str,
    delivery_id: str,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[EndedAttempt]:
    """The attempts of a delivery in order. Attempts of records older than schema version 4 of delivery_state have no row."""
    listing = Listing(
        "attempts",
        "select version, attempt, class as outcome, cause, reason_code, reason, throttled, dispatched_at, ended_at, retry_at,"
        " provider_message_id from attempts",
        ("version",),
        ("tenant_id = %(tenant)s", "delivery_id = %(delivery)s"),
    )
    values = {"tenant": key(tenant_id), "delivery": key(delivery_id)}
    return page(connection, listing, values, lambda row: EndedAttempt(**row), limit=limit, cursor=cursor)


def ignored_receipts(
    connection: psycopg.Connection[Any],
    tenant_id: str,
    *,
    delivery_id: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[IgnoredReceipt]:
    """Receipts that changed no status: of one delivery in order, or of all deliveries, those accepted last in front."""
    values = {"tenant": key(tenant_id)}
    select = f"select {_columns(IgnoredReceipt)}, accepted_at from ignored_receipts"  # noqa: S608  # column names of our own
    if delivery_id is not None:
        values["delivery"] = key(delivery_id)
        conditions = ("tenant_id = %(tenant)s", "delivery_id = %(delivery)s")
        listing = Listing("ignored of a delivery", select, ("version",), conditions)
    else:
        order = ("accepted_at", "delivery_id", "version")
        listing = Listing("ignored", select, order, ("tenant_id = %(tenant)s",), descending=True)

    def made(row: dict[str, Any]) -> IgnoredReceipt:
        del row["accepted_at"]
        return IgnoredReceipt(**row)

    return page(connection, listing, values, made, limit=limit, cursor=cursor)


def orphan_receipts(
    connection: psycopg.Connection[Any], tenant_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[UnmatchedReceipt]:
    """Receipts for which no delivery was found, the newest first."""
    listing = Listing(
        "orphans",
        f"select {_columns(UnmatchedReceipt)} from orphan_receipts",  # noqa: S608  # column names of our own
        ("refused_at", "event_id", "dead_letter_id"),
        ("tenant_id = %(tenant)s",),
        descending=True,
    )
    return page(
        connection, listing, {"tenant": key(tenant_id)}, lambda row: UnmatchedReceipt(**row), limit=limit, cursor=cursor
    )


_METADATA = ", ".join(
    name for name in ArchivedDeadLetter.__dataclass_fields__ if name not in {"key", "value", "headers"}
)


def dead_letters(
    connection: psycopg.Connection[Any], tenant_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ArchivedDeadLetter]:
    """Dead letters without their bytes, the newest first."""
    listing = Listing(
        "dead letters",
        f"select {_METADATA} from dead_letters",  # noqa: S608  # column names of our own
        ("refused_at", "dead_letter_id"),
        ("tenant_id = %(tenant)s",),
        descending=True,
    )
    return page(
        connection,
        listing,
        {"tenant": key(tenant_id)},
        lambda row: ArchivedDeadLetter(**row),
        limit=limit,
        cursor=cursor,
    )


def dead_letter(
    connection: psycopg.Connection[Any], tenant_id: str, dead_letter_id: str, *, with_bytes: bool = False
) -> ArchivedDeadLetter | None:
    """One dead letter, with its bytes on request; None when PostgreSQL has none with this id."""
    columns = f"{_METADATA}, key, value, headers" if with_bytes else _METADATA
    with connection.cursor(row_factory=dict_row) as running:
        found = running.execute(
            f"select {columns} from dead_letters where tenant_id = %s and dead_letter_id = %s".encode(),  # noqa: S608  # column names
            (key(tenant_id), key(dead_letter_id)),
        ).fetchone()
    return None if found is None else ArchivedDeadLetter(**plain(found))


def operator_actions(
    connection: psycopg.Connection[Any], tenant_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[OperatorAction]:
    """What operators did to the tenant's data, the newest first."""
    listing = Listing(
        "operator actions",
        f"select {_columns(OperatorAction)} from operator_actions",  # noqa: S608  # column names of our own
        ("began_at", "action_id"),
        ("tenant_id = %(tenant)s",),
        descending=True,
    )
    return page(
        connection, listing, {"tenant": key(tenant_id)}, lambda row: OperatorAction(**row), limit=limit, cursor=cursor
    )


def suppressions(
    connection: psycopg.Connection[Any],
    tenant_id: str,
    *,
    every: bool = False,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[SuppressionState]:
    """Who must not be written to, by channel, account and address. `every`: also those who may be written to again."""
    listing = Listing(
        "suppressions",
        f"select {_columns(SuppressionState)} from suppressions",  # noqa: S608  # column names of our own
        ("channel", "account", "address"),
        ("tenant_id = %(tenant)s", *(() if every else ("suppressed",))),
    )
    return page(
        connection, listing, {"tenant": key(tenant_id)}, lambda row: SuppressionState(**row), limit=limit, cursor=cursor
    )
