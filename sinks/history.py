"""The history in PostgreSQL: messages and their timelines, conversations, and the conversations of a person.

Enters: a connection of psycopg, the tenant, and what to look for. Leaves: frozen values; lists in pages (sinks/history_pages.py).
Guaranteed: only reads, and only rows of the tenant; times are Unix milliseconds; texts are the original ones (sinks/storable_text.py is
undone), but an id over 512 bytes is shown as it is stored. All functions block and use the caller's connection in the caller's thread;
errors of psycopg pass through. What failed and what was refused: sinks/history_failures.py; full-text search: sinks/history_search.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from sinks.history_pages import DEFAULT_LIMIT, Listing, Page, Row, bounded, in_order, page, plain, time_of, value_of
from sinks.storable_text import key, original

SECONDS = 10.0  # for what counts all rows of a conversation
STATUSES = ("pending", "sent", "delivered", "read", "failed", "expired", "cancelled", "suppressed")


@dataclass(frozen=True, slots=True)
class Trail:
    """One delivery in its current state (a row of `deliveries`), and its transitions in order (rows of `delivery_events`)."""

    delivery: Row
    events: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class MessageTimeline:
    """One message and its deliveries. `message` is None while only its deliveries have reached the archive, `roll_up` (a row of
    `message_roll_ups`, with the counts of `message_states`) is None while it has none."""

    message_id: str
    conversation_id: str
    message: Row | None
    trails: tuple[Trail, ...]
    roll_up: Row | None = None


@dataclass(frozen=True, slots=True)
class WaitingDelivery:
    """A delivery whose receipt is missing: stalled, or SENT for longer than the question said. Times are Unix milliseconds."""

    tenant_id: str
    channel: str
    account: str
    conversation_id: str
    message_id: str
    delivery_id: str
    provider_message_id: str | None
    sent_at: int | None
    stalled_at: int | None  # None: it does not count as stalled


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """The present state of one delivery."""

    delivery_id: str
    channel: str
    account: str
    recipient: str
    address: str
    status: str
    reason_code: str | None
    reason: str | None
    attempts: int
    accepted_at: int
    sent_at: int | None
    delivered_at: int | None
    read_at: int | None
    failed_at: int | None


@dataclass(frozen=True, slots=True)
class ArchivedMessage:
    """One message of a conversation. `statuses` counts its deliveries by status, only those above 0, in capitals. `deliveries` is empty
    unless it was asked for."""

    message_id: str
    conversation_id: str
    seq: int
    direction: str
    sender: str
    kind: str
    text: str
    content: Mapping[str, Any] | None
    metadata: Mapping[str, str]
    requested_at: int
    accepted_at: int
    not_before: int | None
    statuses: Mapping[str, int]
    deliveries: tuple[DeliverySummary, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationMember:
    """A member of a conversation: a user id, or the address of a person without a contact. Sequences are None where nothing can be observed
    (no channel of the member reports it) or nothing was sent to the member."""

    member: str
    last_delivered_seq: int | None
    last_read_seq: int | None
    newest_seq: int | None
    changed_at: int | None


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as a whole. `statuses` counts its deliveries by their present status, only those above 0."""

    tenant_id: str
    conversation_id: str
    members: tuple[ConversationMember, ...]
    messages: int
    inbound: int
    first: ArchivedMessage
    last: ArchivedMessage
    statuses: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PersonConversation:
    """A conversation of a person. `names` are the names under which the person is in it: user id, addresses. `channels` are those of the
    addresses among them. `active_at` is the time of the newest message."""

    conversation_id: str
    names: tuple[str, ...]
    channels: tuple[str, ...]
    last_seq: int | None
    last_read_seq: int | None
    active_at: int


_CONVERSATIONS = """
    select conversation_id from messages where tenant_id = %(tenant)s and message_id = %(message)s
    union select conversation_id from deliveries where tenant_id = %(tenant)s and message_id = %(message)s
    order by 1 limit %(at_most)s
"""
_ROLL_UP = """
    select s.deliveries, s.pending, s.sent, s.delivered, s.read, s.failed, s.expired, s.cancelled, s.suppressed, s.changed_at,
           r.best, r.worst, r.sent as all_sent, r.delivered as all_delivered, r.read as all_read, r.failed as all_failed
      from message_states s join message_roll_ups r using (tenant_id, conversation_id, message_id, accepted_at)
     where tenant_id = %s and conversation_id = %s and message_id = %s
"""
_MESSAGE = "message_id, conversation_id, seq, direction, sender, kind, text, content, metadata, requested_at, accepted_at, not_before"
# Of the messages on one page: their months only, so that old partitions are not read.
_STATES_OF = f"""
    select message_id, {", ".join(f"sum({status})::integer as {status}" for status in STATUSES)}
      from message_states
     where tenant_id = %(tenant)s and conversation_id = %(conversation)s and message_id = any(%(messages)s)
       and accepted_at between %(first)s and %(last)s
     group by message_id
"""  # noqa: S608  # column names of our own
_DELIVERIES_OF = f"""
    select message_id, {", ".join(DeliverySummary.__dataclass_fields__)}
      from deliveries
     where tenant_id = %(tenant)s and message_id = any(%(messages)s) and conversation_id = %(conversation)s
       and accepted_at between %(first)s and %(last)s
     order by channel, recipient, delivery_id
"""  # noqa: S608  # the same
_STATES_OF_ALL = f"""
    select {", ".join(f"coalesce(sum({status}), 0)::bigint as {status}" for status in STATUSES)}
      from message_states where tenant_id = %s and conversation_id = %s
"""  # noqa: S608  # the same
_COUNTS = """
    select count(*), count(*) filter (where direction = 'INBOUND') from messages where tenant_id = %s and conversation_id = %s
"""
_MEMBERS = """
    select m.member, k.last_delivered_seq, k.last_read_seq, k.newest_seq, k.changed_at
      from (
            select unnest(members) as member from conversations where tenant_id = %(tenant)s and conversation_id = %(conversation)s
            union
            select member from cursors where tenant_id = %(tenant)s and conversation_id = %(conversation)s
           ) as m
      left join cursors k on k.tenant_id = %(tenant)s and k.conversation_id = %(conversation)s and k.member = m.member
     order by m.member
"""
# `cursors` knows whom we wrote to, `conversations` whom an application named.
_OF_PERSON = """
    select * from (
        select n.conversation_id, array_agg(distinct n.member) as names, max(c.last_seq) as last_seq,
               max(k.last_read_seq) as last_read_seq, coalesce(max(c.last_message_at), max(k.changed_at), max(c.archived_at)) as active_at
          from (
                select conversation_id, person as member from participants where tenant_id = %(tenant)s and person = any(%(names)s)
                union
                select conversation_id, unnest(members) from conversations where tenant_id = %(tenant)s and members && %(names)s
               ) as n
          left join conversations c on c.tenant_id = %(tenant)s and c.conversation_id = n.conversation_id
          left join cursors k on k.tenant_id = %(tenant)s and k.conversation_id = n.conversation_id and k.member = n.member
         where n.member = any(%(names)s)
         group by n.conversation_id
    ) as found
"""
_CONTACTS = """
    select user_id, addresses from contacts
     where tenant_id = %(tenant)s
       and (user_id = %(person)s or addresses @> jsonb_build_array(jsonb_build_object('address', %(address)s::text)))
"""


def timelines(
    connection: psycopg.Connection[Any],
    message_id: str,
    tenant_id: str = "default",
    conversation_id: str | None = None,
    at_most: int = 100,
) -> tuple[MessageTimeline, ...]:
    """The timelines of a message id in PostgreSQL, one for each conversation in which the tenant used the id, at most `at_most`. With
    `conversation_id`, only that conversation's. Empty when PostgreSQL has no such message."""
    tenant, message = key(tenant_id), key(message_id)
    if conversation_id is not None:
        conversations = [key(conversation_id)]
    else:
        asked = {"tenant": tenant, "message": message, "at_most": at_most}
        conversations = [row[0] for row in connection.execute(_CONVERSATIONS, asked)]
    found = (_timeline(connection, (tenant, conversation, message)) for conversation in conversations)
    return tuple(each for each in found if each is not None)


def _timeline(connection: psycopg.Connection[Any], place: tuple[str, str, str]) -> MessageTimeline | None:
    """`place` is (tenant, conversation id, message id), as in the key columns."""
    with connection.cursor(row_factory=dict_row) as cursor:
        message = cursor.execute(
            "select * from messages where tenant_id = %s and conversation_id = %s and message_id = %s", place
        ).fetchone()
        deliveries = cursor.execute(
            "select * from deliveries where tenant_id = %s and conversation_id = %s and message_id = %s"
            " order by channel, recipient, delivery_id",
            place,
        ).fetchall()
        events = cursor.execute(
            "select * from delivery_events where tenant_id = %s and delivery_id = any(%s) order by version, event_id",
            (place[0], [delivery["delivery_id"] for delivery in deliveries]),
        ).fetchall()
        roll_up = cursor.execute(_ROLL_UP, place).fetchone()
    if message is None and not deliveries:
        return None
    return MessageTimeline(
        message_id=original(place[2]),
        conversation_id=original(place[1]),
        message=None if message is None else plain(message),
        trails=tuple(
            Trail(
                plain(delivery),
                tuple(plain(event) for event in events if event["delivery_id"] == delivery["delivery_id"]),
            )
            for delivery in deliveries
        ),
        roll_up=None if roll_up is None else plain(roll_up),
    )


def waiting_deliveries(
    connection: psycopg.Connection[Any], channel: str, at_most: int, sent_before: datetime | None = None
) -> tuple[WaitingDelivery, ...]:
    """The stalled deliveries of a channel in PostgreSQL, of all tenants, those that were sent first in front, at most `at_most`. With
    `sent_before`, also deliveries that are SENT since before that time."""
    names = tuple(WaitingDelivery.__dataclass_fields__)
    relation, condition = "stalled_deliveries", ""
    if sent_before is not None:
        relation, condition = (
            "deliveries",
            " and (stalled_at is not null or (status = 'SENT' and sent_at < %(before)s))",
        )
    found = connection.execute(
        (
            f"select {', '.join(names)} from {relation} where channel = %(channel)s{condition}"  # noqa: S608  # our own names
            " order by sent_at, delivery_id limit %(at_most)s"
        ).encode(),
        {"channel": channel, "before": sent_before, "at_most": at_most},
    )
    return tuple(WaitingDelivery(**dict(zip(names, map(value_of, row), strict=True))) for row in found)


def conversation_messages(
    connection: psycopg.Connection[Any],
    tenant_id: str,
    conversation_id: str,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    newest_first: bool = False,
    with_deliveries: bool = False,
) -> Page[ArchivedMessage]:
    """The messages of a conversation in both directions, by their sequence. `with_deliveries`: each with the state of all its deliveries.
    Two or three queries, each of which reads only the rows of the page. Raises WrongQuestion."""
    of = {"tenant": key(tenant_id), "conversation": key(conversation_id)}
    listing = Listing(
        "messages",
        f"select {_MESSAGE} from messages",  # noqa: S608  # column names of our own
        ("seq",),
        ("tenant_id = %(tenant)s", "conversation_id = %(conversation)s"),
        descending=newest_first,
    )
    found = page(connection, listing, of, dict, limit=limit, cursor=cursor)
    return Page(_with_states(connection, of, found.items, with_deliveries=with_deliveries), found.after, found.before)


def _with_states(
    connection: psycopg.Connection[Any], of: Row, rows: Sequence[dict[str, Any]], *, with_deliveries: bool
) -> tuple[ArchivedMessage, ...]:
    if not rows:
        return ()
    times = [row["accepted_at"] for row in rows]
    ids = [key(row["message_id"]) for row in rows]
    asked = {**of, "messages": ids, "first": time_of(min(times)), "last": time_of(max(times))}
    deliveries: dict[str, list[DeliverySummary]] = {}
    with in_order(connection), connection.cursor(row_factory=dict_row) as running:
        states = {row["message_id"]: row for row in running.execute(_STATES_OF.encode(), asked)}
        for row in running.execute(_DELIVERIES_OF.encode(), asked) if with_deliveries else ():
            message_id = row.pop("message_id")
            deliveries.setdefault(message_id, []).append(DeliverySummary(**plain(row)))
    return tuple(
        ArchivedMessage(
            **row,
            statuses=_counts(states.get(id_, {})),
            deliveries=tuple(deliveries.get(id_, ())),
        )
        for row, id_ in zip(rows, ids, strict=True)
    )


def _counts(row: Row) -> dict[str, int]:
    return {status.upper(): row[status] for status in STATUSES if row.get(status)}


def conversation(
    connection: psycopg.Connection[Any], tenant_id: str, conversation_id: str, *, seconds: float = SECONDS
) -> ConversationView | None:
    """A conversation with its members, its first and last message, and counts; None when PostgreSQL has no message of it. It counts all
    rows of the conversation. Raises TooSlow after `seconds`."""
    tenant, name = key(tenant_id), key(conversation_id)

    def ask() -> ConversationView | None:
        ends = [
            conversation_messages(connection, tenant_id, conversation_id, limit=1, newest_first=newest)
            for newest in (False, True)
        ]
        if not ends[0].items:
            return None
        messages, inbound = connection.execute(_COUNTS, (tenant, name)).fetchone() or (0, 0)
        with connection.cursor(row_factory=dict_row) as running:
            states = running.execute(_STATES_OF_ALL.encode(), (tenant, name)).fetchone() or {}
            members = running.execute(_MEMBERS, {"tenant": tenant, "conversation": name}).fetchall()
        return ConversationView(
            tenant_id=tenant_id,
            conversation_id=original(name),
            members=tuple(ConversationMember(**plain(member)) for member in members),
            messages=messages,
            inbound=inbound,
            first=ends[0].items[0],
            last=ends[1].items[0],
            statuses=_counts(states),
        )

    return bounded(connection, seconds, ask, "ask for a page of its messages instead")


def person_conversations(
    connection: psycopg.Connection[Any],
    tenant_id: str,
    person: str,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[PersonConversation]:
    """The conversations of a person over all channels, the newest activity first. `person` is a user id or an address; if a contact has it,
    the conversations of the user id and of every address of that contact. A conversation with a new message moves to the front while you
    page. Raises WrongQuestion."""
    tenant = key(tenant_id)
    channels: dict[str, set[str]] = {}
    names = {key(person)}
    asked = {"tenant": tenant, "person": key(person), "address": key(person)}
    for user_id, addresses in connection.execute(_CONTACTS, asked):
        names.add(user_id)
        for each in addresses:
            names.add(key(original(each["address"])))
            channels.setdefault(key(original(each["address"])), set()).add(each["channel"])
    listing = Listing("person", _OF_PERSON, ("active_at", "conversation_id"), descending=True, by_index=False)

    def made(row: dict[str, Any]) -> PersonConversation:
        of = {channel for name in row["names"] for channel in channels.get(key(name), ())}
        return PersonConversation(**row | {"names": tuple(row["names"]), "channels": tuple(sorted(of))})

    return page(connection, listing, {"tenant": tenant, "names": sorted(names)}, made, limit=limit, cursor=cursor)
