"""Records as rows of the archive's relations, and the SQL that merges them.

Enters: SequencedMessage, DeliveryState and Cursor. Leaves: rows for binary COPY into temporary relations with the columns of `messages`,
`deliveries` and `cursors`, and the statements that merge those. Guaranteed: a merge never replaces a newer version by an older one; merging
a batch again, in any order, with or without other batches, changes nothing. Nothing here does I/O: sinks/postgres.py runs the statements,
in its transaction.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import orjson

from schemas.content_json import as_json
from schemas.records import Cursor, DeliveryState, SequencedMessage
from sinks.storable_text import held, key, storable, storable_json

# PostgreSQL's binary timestamptz is int64 microseconds since 2000-01-01, so our milliseconds need no datetime object per field.
_EPOCH_2000 = 946_684_800_000

Convert = Callable[[Any], Any]


def _timestamp(at: int) -> int:
    return (held(at) - _EPOCH_2000) * 1000


def _metadata(metadata: Any) -> bytes:
    # PostgreSQL's binary jsonb is a version byte and the JSON text.
    return b"\x01" + orjson.dumps({storable(name): storable(value) for name, value in metadata.items()})


def _content(content: Any) -> bytes:
    return b"\x01" + orjson.dumps(storable_json(as_json(content)))


# column kind -> (type for COPY's binary dumper, conversion of a field's value)
_KINDS: dict[str, tuple[str, Convert | None]] = {
    "key": ("text", key),
    "text": ("text", storable),
    "word": ("text", str.__str__),  # a StrEnum as plain text
    "time": ("int8", _timestamp),
    "bigint": ("int8", None),
    "int": ("int4", None),
    "bool": ("bool", None),
    "labels": ("bytea", _metadata),
    "content": ("bytea", _content),
}

_KEYS = {"tenant_id", "event_id", "delivery_id", "message_id", "conversation_id", "member"}
_WORDS = {"previous_status", "status", "cause", "direction"}
_PLAIN = {
    "seq": "bigint",
    "last_delivered_seq": "bigint",
    "last_read_seq": "bigint",
    "newest_seq": "bigint",
    "home_partition": "int",
    "version": "int",
    "attempts": "int",
    "resends": "int",
    "delivered_implied": "bool",
    "attempt": "int",
    "throttles": "int",
    "throttled": "bool",
    "metadata": "labels",
    "content": "content",
    "not_before": "time",
}


def _kind(column: str) -> str:
    if column in _KEYS:
        return "key"
    if column in _WORDS:
        return "word"
    return _PLAIN.get(column, "time" if column.endswith("_at") else "text")


class Staging:
    """One temporary relation: its columns (the record's fields, except `without`), their binary types, and the rows. Pure; immutable after
    construction, so it may be shared. `create` and `copy` are SQL; the relation is emptied at each commit."""

    def __init__(self, relation: str, record: type[Any], without: tuple[str, ...] = ()) -> None:
        self.relation = f"staged_{relation}"
        self.columns = tuple(f.name for f in dataclasses.fields(record) if f.name not in without)
        kinds = [_KINDS[_kind(column)] for column in self.columns]
        self.types = [type_ for type_, _ in kinds]
        self._fields = attrgetter(*self.columns)
        self._converts = [(i, convert) for i, (_, convert) in enumerate(kinds) if convert]
        names = ", ".join(self.columns)
        self.create = f"create temporary table if not exists {self.relation} (like {relation} including defaults) on commit delete rows"
        self.copy = f"copy {self.relation} ({names}) from stdin (format binary)"

    def rows(self, records: Sequence[Any]) -> Iterator[list[Any]]:
        """One row per record. Each value has the type of its column in `types`; None is NULL."""
        for record in records:
            row = list(self._fields(record))
            for i, convert in self._converts:
                value = row[i]
                if value is not None:
                    row[i] = convert(value)
            yield row


MESSAGES = Staging("messages", SequencedMessage, without=("deliveries",))
STATES = Staging("deliveries", DeliveryState)
CURSORS = Staging("cursors", Cursor)

_message_columns = ", ".join(MESSAGES.columns)
# Returns one row: how many messages were new, and how many of those have an id that the tenant used before in another conversation. Of
# several new messages with one id in a batch, all but one count. The rest of the statement does not see what its insert adds.
MERGE_MESSAGES = f"""
    with added as (
        insert into messages ({_message_columns}) select {_message_columns} from staged_messages on conflict do nothing
        returning tenant_id, message_id
    ), counted as (
        select count(*) as times, exists (
            select from messages m where m.tenant_id = added.tenant_id and m.message_id = added.message_id
        ) as was_known
          from added group by added.tenant_id, added.message_id
    )
    select coalesce(sum(times), 0)::bigint, coalesce(sum(case when was_known then times else times - 1 end), 0)::bigint from counted
"""  # noqa: S608  # column names come from our own records

# A staged message that is not in `messages` with the same sequence number is a conflict; every other one is a replay.
KEEP_CONFLICTS = f"""
    insert into message_conflicts ({_message_columns})
    select {", ".join("s." + column for column in MESSAGES.columns)}
      from staged_messages s
      left join messages m using (tenant_id, conversation_id, message_id)
     where m.seq is distinct from s.seq
    on conflict do nothing
"""  # noqa: S608  # the same

_state_columns = ", ".join(STATES.columns)
_event_columns = (
    "tenant_id, delivery_id, event_id, version, previous_status, status, cause, anomaly, occurred_at, observed_at, dispatched_at, "
    "attempts, resends, provider_message_id, reason_code, reason, stalled_at, accepted_at, attempt, reported, throttled, retry_at"
)
MERGE_EVENTS = f"""
    insert into delivery_events ({_event_columns}) select {_event_columns} from staged_deliveries on conflict do nothing
"""  # noqa: S608  # the same

# A delivery keeps its message and its conversation: `message_states` counts on it.
_changing = [
    column
    for column in STATES.columns
    if column not in {"tenant_id", "delivery_id", "accepted_at", "conversation_id", "message_id"}
]
MERGE_DELIVERIES = f"""
    insert into deliveries ({_state_columns})
    select distinct on (tenant_id, delivery_id, accepted_at) {_state_columns}
      from staged_deliveries order by tenant_id, delivery_id, accepted_at, version desc
    on conflict (tenant_id, delivery_id, accepted_at) do update
       set ({", ".join(_changing)}, archived_at) = ({", ".join("excluded." + column for column in _changing)}, excluded.archived_at)
     where deliveries.version < excluded.version
"""  # noqa: S608  # the same

_cursor_columns = ", ".join(CURSORS.columns)
MERGE_CURSORS = f"""
    insert into cursors ({_cursor_columns})
    select distinct on (tenant_id, conversation_id, member) {_cursor_columns}
      from staged_cursors order by tenant_id, conversation_id, member, version desc
    on conflict (tenant_id, conversation_id, member) do update
       set ({_cursor_columns}, archived_at) = ({", ".join("excluded." + column for column in CURSORS.columns)}, excluded.archived_at)
     where cursors.version < excluded.version
"""  # noqa: S608  # the same
