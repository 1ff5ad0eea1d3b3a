"""Records as rows of the archive's relations, and the SQL that merges them.

Enters: SequencedMessage, DeliveryState, Cursor and MembersRow. Leaves: rows for binary COPY into temporary relations with the columns of
`messages`, `deliveries`, `cursors` and `conversations`, and the statements that merge those. Guaranteed: a merge never replaces a newer
version by an older one; merging a batch again, in any order, with or without other batches, changes nothing. Nothing here does I/O:
sinks/postgres.py runs the statements, in its transaction. sinks/message_conflicts.py decides which messages are new.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

import orjson

from schemas.content_json import as_json
from schemas.records import Cursor, DeliveryState, SequencedMessage
from sinks.storable_text import are_held, are_keys, are_storable, held, key, storable, storable_json

# PostgreSQL's binary timestamptz is int64 microseconds since 2000-01-01, so our milliseconds need no datetime object per field.
_EPOCH_2000 = 946_684_800_000

ROWS_AT_ONCE = 200  # so many rows are converted together, column by column

Convert = Callable[[Any], Any]
# From the values of a column, of which some may be None, to those that are copied.
Column = Callable[[list[Any]], list[Any]]


class MembersRow(NamedTuple):
    """The members of a conversation, from topic `conversations`. `members_at` is None when the application deleted the conversation."""

    tenant_id: str
    conversation_id: str
    home_partition: int
    members: tuple[str, ...]
    members_at: int | None


def _keys(texts: Any) -> list[str]:
    return [key(text) for text in texts]


def _texts(texts: Any) -> list[str]:
    return [storable(text) for text in texts]


def _json(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(storable_json(value))


def _metadata(metadata: Any) -> bytes:
    # PostgreSQL's binary jsonb is a version byte and the JSON text.
    return b"\x01" + orjson.dumps({storable(name): storable(value) for name, value in metadata.items()})


def _content(content: Any) -> bytes:
    return b"\x01" + orjson.dumps(storable_json(as_json(content)))


def _each(convert: Convert) -> Column:
    return lambda values: [None if value is None else convert(value) for value in values]


def _unless(are_good: Callable[[list[Any]], bool], convert: Convert) -> Column:
    """The column as it is, if every value can be stored as it is: so nearly always there is one look at all of them, and none at each."""
    slow = _each(convert)
    return lambda values: values if are_good([value for value in values if value is not None]) else slow(values)


def _times(values: list[Any]) -> list[Any]:
    if not are_held([at for at in values if at is not None]):
        values = [None if at is None else held(at) for at in values]
    return [None if at is None else (at - _EPOCH_2000) * 1000 for at in values]


# kind of a column -> (type for COPY's binary dumper, conversion of its values)
_KINDS: dict[str, tuple[str, Column | None]] = {
    "key": ("text", _unless(are_keys, key)),
    "text": ("text", _unless(are_storable, storable)),
    "word": ("text", _each(str.__str__)),  # a StrEnum as plain text
    "time": ("int8", _times),
    "bigint": ("int8", None),
    "int": ("int4", None),
    "bool": ("bool", None),
    "labels": ("bytea", _each(_metadata)),
    "content": ("bytea", _each(_content)),
    "keys": ("text[]", _each(_keys)),
    "texts": ("text[]", _each(_texts)),
    "json": ("bytea", _each(_json)),
    "bytes": ("bytea", None),
}

_KEYS = {"tenant_id", "event_id", "delivery_id", "message_id", "conversation_id", "member", "user_id"}
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
    "members": "keys",
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
    construction, so it may be shared. `create` and `copy` are SQL; the relation is emptied at each commit. With `numbered`, the last column
    of a row is `place`, its number in the batch from 0. `kinds` are those of columns whose name does not say it, `before` conversions of
    their values that come first."""

    def __init__(
        self,
        relation: str,
        record: type[Any],
        without: tuple[str, ...] = (),
        *,
        kinds: Mapping[str, str] | None = None,
        before: Mapping[str, Convert] | None = None,
        numbered: bool = False,
    ) -> None:
        self.relation = f"staged_{relation}"
        self.columns = tuple(name for name in _fields_of(record) if name not in without)
        self._numbered = numbered
        types = [_KINDS[(kinds or {}).get(column) or _kind(column)] for column in self.columns]
        self.types = [type_ for type_, _ in types] + ["int4"] * numbered
        first = {name: _each(convert) for name, convert in (before or {}).items()}
        self._conversions = [
            (attrgetter(name), [each for each in (first.get(name), convert) if each])
            for name, (_, convert) in zip(self.columns, types, strict=True)
        ]
        names = ", ".join((*self.columns, "place") if numbered else self.columns)
        place = ", place integer" if numbered else ""
        columns = f"like {relation} including defaults{place}"
        self.create = f"create temporary table if not exists {self.relation} ({columns}) on commit delete rows"
        self.copy = f"copy {self.relation} ({names}) from stdin (format binary)"

    def rows(self, records: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        """One row per record. Each value has the type of its column in `types`; None is NULL. Takes ROWS_AT_ONCE records at a time."""
        given, start = iter(records), 0
        while some := list(islice(given, ROWS_AT_ONCE)):
            columns: list[Sequence[Any]] = [self._column(some, *each) for each in self._conversions]
            if self._numbered:
                columns.append(range(start, start + len(some)))
            yield from zip(*columns, strict=True)
            start += len(some)

    @staticmethod
    def _column(records: list[Any], field: Convert, conversions: Sequence[Column]) -> list[Any]:
        values = list(map(field, records))
        for convert in conversions:
            values = convert(values)
        return values


def _fields_of(record: type[Any]) -> tuple[str, ...]:
    """The fields of a dataclass or of a NamedTuple."""
    named: tuple[str, ...] | None = getattr(record, "_fields", None)
    return tuple(field.name for field in dataclasses.fields(record)) if named is None else named


MESSAGES = Staging("messages", SequencedMessage, without=("deliveries",), numbered=True)
STATES = Staging("deliveries", DeliveryState)
CURSORS = Staging("cursors", Cursor)
MEMBERS = Staging("conversations", MembersRow)

_message_columns = ", ".join(MESSAGES.columns)
# What is stored of each staged message, only for those of which something is: whether it is this very message, whether its id or its
# sequence stands for another message of its conversation, and whether the tenant used its id in another conversation. A conversation gives
# rising sequences, so that the look-up by sequence is rare; each look-up is one probe of an index (of each month), because of its limit.
FIND_STORED = """
    select s.place, coalesce(same.is_it, false), same.is_it is not null, taken.message_id is not null, elsewhere.found is not null
      from staged_messages s
      left join conversations c on c.tenant_id = s.tenant_id and c.conversation_id = s.conversation_id
      left join lateral (
            select m.seq = s.seq and m.accepted_at = s.accepted_at as is_it from messages m
             where m.tenant_id = s.tenant_id and m.conversation_id = s.conversation_id and m.message_id = s.message_id
             limit 1
           ) as same on c.last_seq is not null
      left join lateral (
            select m.message_id from messages m
             where m.tenant_id = s.tenant_id and m.conversation_id = s.conversation_id and m.seq = s.seq and m.message_id <> s.message_id
             limit 1
           ) as taken on s.seq <= c.last_seq
      left join lateral (
            select true as found from messages m
             where m.tenant_id = s.tenant_id and m.message_id = s.message_id and m.conversation_id <> s.conversation_id
             limit 1
           ) as elsewhere on true
     where same.is_it is not null or taken.message_id is not null or elsewhere.found
"""
# Parameter: the places of messages that are conflicts.
KEEP_CONFLICTS = f"""
    insert into message_conflicts ({_message_columns}) select {_message_columns} from staged_messages where place = any(%s)
    on conflict do nothing
"""  # noqa: S608  # column names come from our own records
# Parameter: the places of messages that are not new: replays and conflicts.
MERGE_MESSAGES = f"""
    insert into messages ({_message_columns}) select {_message_columns} from staged_messages where place <> all(%s) on conflict do nothing
"""  # noqa: S608  # the same
# The same for the conversations, with the places of conflicts: a replay must make a conversation that is missing.
MERGE_CONVERSATIONS = """
    insert into conversations as c (tenant_id, conversation_id, home_partition, first_message_at, last_message_at, last_seq)
    select tenant_id, conversation_id, max(home_partition), min(accepted_at), max(accepted_at), greatest(max(seq), 0)
      from staged_messages where place <> all(%s) group by tenant_id, conversation_id order by tenant_id, conversation_id
    on conflict (tenant_id, conversation_id) do update
       set home_partition = excluded.home_partition, archived_at = excluded.archived_at,
           first_message_at = least(c.first_message_at, excluded.first_message_at),
           last_message_at = greatest(c.last_message_at, excluded.last_message_at),
           last_seq = greatest(c.last_seq, excluded.last_seq)
     where c.home_partition is null or excluded.last_seq > c.last_seq
        or least(c.first_message_at, excluded.first_message_at) is distinct from c.first_message_at
        or greatest(c.last_message_at, excluded.last_message_at) is distinct from c.last_message_at
"""
# The newest members win. A deleted conversation loses its members, whatever its times say.
MERGE_MEMBERS = """
    insert into conversations as c (tenant_id, conversation_id, home_partition, members, members_at)
    select tenant_id, conversation_id, home_partition, members, members_at from staged_conversations
     where members_at is not null order by tenant_id, conversation_id
    on conflict (tenant_id, conversation_id) do update
       set members = excluded.members, members_at = excluded.members_at, archived_at = excluded.archived_at
     where c.members_at is null or c.members_at < excluded.members_at
        or (c.members_at = excluded.members_at and c.members <> excluded.members)
"""
FORGET_MEMBERS = """
    update conversations c set members = '{}', members_at = null, archived_at = now() from staged_conversations s
     where s.members_at is null and c.tenant_id = s.tenant_id and c.conversation_id = s.conversation_id and c.members_at is not null
"""

_state_columns = ", ".join(STATES.columns)
_event_columns = (
    "tenant_id, delivery_id, event_id, version, previous_status, status, cause, anomaly, occurred_at, observed_at, dispatched_at, "
    "attempts, resends, provider_message_id, reason_code, reason, stalled_at, accepted_at, attempt, reported, throttled, retry_at"
)
MERGE_EVENTS = f"""
    insert into delivery_events ({_event_columns}) select {_event_columns} from staged_deliveries on conflict do nothing
"""  # noqa: S608  # the same

# A delivery's first transition names its recipient; what a person wrote names them as its sender.
ADD_RECIPIENTS = """
    insert into participants (tenant_id, person, conversation_id)
    select distinct tenant_id, recipient, conversation_id from staged_deliveries where version = 1 order by 1, 2, 3 on conflict do nothing
"""
ADD_SENDERS = """
    insert into participants (tenant_id, person, conversation_id)
    select distinct tenant_id, sender, conversation_id from staged_messages where direction = 'INBOUND' order by 1, 2, 3
    on conflict do nothing
"""

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
