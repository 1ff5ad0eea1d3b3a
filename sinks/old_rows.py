"""Deletes rows older than retention from PostgreSQL, a bounded number in each transaction.

Enters: a connection in autocommit mode, retention, and the present time. Leaves: how many rows went, by relation. Guaranteed: a transaction
deletes at most BATCH rows of one relation, so that the sinks hardly wait; an interruption leaves whole transactions, and a repetition does
the rest. A row whose time is no plausible one goes by when it was written. Blocks; raises psycopg's errors.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from schemas.retention_days import Retention
from sinks.months import first_kept

BATCH = 5000
# Rows of messages outside these times are in the partitions `..._other`.
_PLAUSIBLE = "accepted_at >= '2000-01-01' and accepted_at < now() + interval '4 months'"
_IMPLAUSIBLE = "(accepted_at < '2000-01-01' or accepted_at >= now() + interval '4 months')"


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation, the column of its time, and its primary key after the tenant. With `monthly`, whole months go by dropping them."""

    name: str
    time: str
    key: tuple[str, ...]
    monthly: bool = False


RELATIONS = (
    Relation("messages", "accepted_at", ("conversation_id", "message_id", "accepted_at"), monthly=True),
    Relation("delivery_events", "accepted_at", ("delivery_id", "event_id", "accepted_at"), monthly=True),
    # a trigger counts message_states anew
    Relation("deliveries", "accepted_at", ("delivery_id", "accepted_at"), monthly=True),
    Relation("message_conflicts", "accepted_at", ("conversation_id", "message_id", "seq")),
    Relation("dead_letters", "refused_at", ("dead_letter_id",)),
    Relation("orphan_receipts", "refused_at", ("event_id", "dead_letter_id")),
)


@dataclass(frozen=True, slots=True)
class OldRows:
    """Rows of one tenant in one relation that are to be deleted: those for which `condition` holds."""

    relation: Relation
    tenant: str
    condition: str
    before: datetime


def delete_old(connection: psycopg.Connection, retention: Retention, now: datetime) -> Counter[str]:
    """Deletes, and returns rows by relation."""
    deleted: Counter[str] = Counter()
    for old in _old_rows(connection, retention, now):
        deleted[old.relation.name] += _delete(connection, old)
    for tenant, before in _cutoffs(connection, "conversations", retention, now):
        for name, number in _delete_conversations(connection, tenant, before).items():
            deleted[name] += number
    return +deleted


def count_old(connection: psycopg.Connection, retention: Retention, now: datetime) -> Counter[str]:
    """How many rows `delete_old` would delete, without conversations, whose messages are still there. Reads what it counts."""
    found: Counter[str] = Counter()
    for old in _old_rows(connection, retention, now):
        row = connection.execute(
            f"select count(*) from {old.relation.name} where tenant_id = %s and {old.condition}".encode(),  # noqa: S608  # names of this module
            (old.tenant, old.before),
        ).fetchone()
        found[old.relation.name] += row[0] if row else 0
    return +found


def _old_rows(connection: psycopg.Connection, retention: Retention, now: datetime) -> Iterator[OldRows]:
    longest = retention.longest
    of_kept_months = "" if longest is None else f" and accepted_at >= '{first_kept(longest, now)} 00:00:00+00'"
    for relation in RELATIONS:
        for tenant, before in _cutoffs(connection, relation.name, retention, now):
            if not relation.monthly:
                yield OldRows(relation, tenant, f"{relation.time} < %s", before)
                continue
            if retention.days_of(tenant) != retention.longest:
                yield OldRows(relation, tenant, f"{_PLAUSIBLE}{of_kept_months} and accepted_at < %s", before)
            yield OldRows(relation, tenant, f"{_IMPLAUSIBLE} and archived_at < %s", before)


def _cutoffs(
    connection: psycopg.Connection, relation: str, retention: Retention, now: datetime
) -> Iterator[tuple[str, datetime]]:
    """Each tenant of a relation with retention, and the time before which its rows go. Looks up one tenant after the other in an index."""
    tenant = ""
    while True:
        row = connection.execute(
            f"select min(tenant_id) from {relation} where tenant_id > %s".encode(),  # noqa: S608  # names of this module
            (tenant,),
        ).fetchone()
        if row is None or row[0] is None:
            return
        tenant = row[0]
        days = retention.days_of(tenant)
        if days is not None:
            yield tenant, now - timedelta(days=days)


def _delete(connection: psycopg.Connection, old: OldRows) -> int:
    """Walks along the primary key, so that no batch reads again what the ones before have read."""
    name, key = old.relation.name, ", ".join(old.relation.key)
    same = " and ".join(f"r.{column} = old.{column}" for column in old.relation.key)
    after: tuple[object, ...] = ()
    deleted = 0
    while True:
        further = f" and ({key}) > ({', '.join(['%s'] * len(after))})" if after else ""
        rows = connection.execute(
            f"""
            with old as materialized (
                select {key} from {name} where tenant_id = %s and {old.condition}{further} order by {key} limit {BATCH}
            ), gone as (delete from {name} r using old where r.tenant_id = %s and {same})
            select {key} from old order by {key}
            """.encode(),  # noqa: S608  # names of this module
            (old.tenant, old.before, *after, old.tenant),
        ).fetchall()
        deleted += len(rows)
        if len(rows) < BATCH:
            return deleted
        after = rows[-1]


def _delete_conversations(connection: psycopg.Connection, tenant: str, before: datetime) -> Counter[str]:
    """Conversations without messages, whose last one or last change is old, and their cursors."""
    deleted: Counter[str] = Counter()
    while True:
        row = connection.execute(
            f"""
            with old as materialized (
                select conversation_id from conversations c
                 where tenant_id = %s and (last_message_at < %s or archived_at < %s) and not exists (
                       select from messages m where m.tenant_id = c.tenant_id and m.conversation_id = c.conversation_id)
                 limit {BATCH}
            ), gone as (
                delete from conversations c using old
                 where c.tenant_id = %s and c.conversation_id = old.conversation_id and (c.last_message_at < %s or c.archived_at < %s)
                returning c.conversation_id
            ), cursors_gone as (
                delete from cursors k using gone where k.tenant_id = %s and k.conversation_id = gone.conversation_id returning 1
            ), participants_gone as (
                delete from participants p using gone where p.tenant_id = %s and p.conversation_id = gone.conversation_id returning 1
            )
            select (select count(*) from gone), (select count(*) from cursors_gone),
                   (select count(*) from participants_gone), (select count(*) from old)
            """.encode(),  # noqa: S608  # a number of this module
            (tenant, before, before, tenant, before, before, tenant, tenant),
        ).fetchone()
        conversations, cursors, participants, found = row or (0, 0, 0, 0)
        deleted["conversations"] += conversations
        deleted["cursors"] += cursors
        deleted["participants"] += participants
        if found < BATCH or not conversations:
            return deleted
