"""Gives the conversations that an erased person began an id without the address, in PostgreSQL.

Enters: a person. Leaves: the same rows under another conversation id, in bounded transactions. Guaranteed: messages, deliveries, counts and
cursors stay together at the end; interrupted in between, the next run continues; a second run finds nothing. All functions block.

A delivery is inserted again instead of changed: the triggers that count the deliveries of a message know no other way.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from psycopg import Connection, sql

from sinks.erased_ids import conversation_without
from sinks.erased_people import erased_name, person_digest
from sinks.erasure_search import BATCH, ErasedPerson

Change = Callable[[Callable[[], Mapping[str, int]]], Mapping[str, int]]
_OLD = "tenant_id = %(tenant)s and conversation_id = %(old)s"
_MESSAGES = f"""
    update messages set conversation_id = %(new)s
     where {_OLD} and message_id in (select message_id from messages where {_OLD} order by message_id limit %(batch)s)
"""  # noqa: S608  # our own text
_BEGUN = " union ".join(
    f"select conversation_id from {relation} where tenant_id = %(tenant)s and conversation_id like any(%(patterns)s)"  # noqa: S608  # the same
    for relation in ("messages", "deliveries", "conversations", "cursors")
)
_PATTERN, _ESCAPED = re.compile(r"([%_\\])"), r"\\\1"
# What is left are small relations, of one conversation each.
_SMALL = {
    "message_conflicts": f"update message_conflicts set conversation_id = %(new)s where {_OLD}",  # noqa: S608  # the same
    "dead_letters": f"update dead_letters set conversation_id = %(new)s where {_OLD}",  # noqa: S608  # the same
    "cursors": f"""
        update cursors c set conversation_id = %(new)s
         where {_OLD} and not exists (select from cursors o where o.tenant_id = c.tenant_id and o.conversation_id = %(new)s
                                         and o.member = c.member)
    """,  # noqa: S608  # the same
    "ended cursors": f"delete from cursors where {_OLD}",  # noqa: S608  # the same
    "participants": f"""
        insert into participants (tenant_id, person, conversation_id)
        select tenant_id, person, %(new)s from participants where {_OLD} on conflict do nothing
    """,  # noqa: S608  # the same
    "old participants": f"delete from participants where {_OLD}",  # noqa: S608  # the same
    "conversations": f"""
        insert into conversations (tenant_id, conversation_id, home_partition, members, members_at, first_message_at, last_message_at,
                                   last_seq, archived_at)
        select tenant_id, %(new)s, home_partition, members, members_at, first_message_at, last_message_at, last_seq, archived_at
          from conversations where {_OLD}
        on conflict (tenant_id, conversation_id) do update
           set last_seq = greatest(conversations.last_seq, excluded.last_seq),
               last_message_at = greatest(conversations.last_message_at, excluded.last_message_at)
    """,  # noqa: S608  # the same
    "old conversations": f"delete from conversations where {_OLD}",  # noqa: S608  # the same
}


def begun_by(connection: Connection, person: ErasedPerson) -> dict[str, str]:
    """The ids of the conversations that the person began, each with the id that replaces it. They are found by their form, because an
    erasure that was interrupted may know no account any more. Looks at every conversation of the tenant."""
    patterns = [f"{channel}:%:{_PATTERN.sub(_ESCAPED, address)}" for channel, address in person.forms]
    rows = connection.execute(_BEGUN.encode(), {"tenant": person.tenant_id, "patterns": patterns}).fetchall()
    forms = set(person.forms)
    found = {}
    for (old,) in rows:
        channel, _, address = old.split(":", 2)
        if (channel, address) in forms:
            word = erased_name(person_digest(person.tenant_id, channel, address))
            found[old] = conversation_without(old, word)
    return found


class ConversationsErasure:
    """The conversations of one person. `change` runs a step in a transaction."""

    def __init__(self, connection: Connection, person: ErasedPerson, change: Change) -> None:
        self._connection = connection
        self._person = person
        self._change = change
        described = connection.execute("select * from deliveries limit 0").description or ()
        self._columns = [column.name for column in described]

    def run(self) -> Iterator[Mapping[str, int]]:
        for old, new in begun_by(self._connection, self._person).items():
            yield from self._rename({"tenant": self._person.tenant_id, "old": old, "new": new, "batch": BATCH})

    def _rename(self, ids: Mapping[str, Any]) -> Iterator[Mapping[str, int]]:
        while self._exists("deliveries", ids):
            yield self._change(lambda: self._deliveries(ids))
        while self._exists("messages", ids):
            yield self._change(lambda: {"messages": self._connection.execute(_MESSAGES.encode(), ids).rowcount})
        yield self._change(lambda: self._small(ids))

    def _exists(self, relation: str, ids: Mapping[str, Any]) -> bool:
        row = self._connection.execute(
            f"select exists (select from {relation} where {_OLD})".encode(),  # noqa: S608  # the same
            ids,
        ).fetchone()
        return bool(row and row[0])

    def _deliveries(self, ids: Mapping[str, Any]) -> dict[str, int]:
        names = sql.SQL(", ").join(map(sql.Identifier, self._columns))
        values = sql.SQL(", ").join(
            sql.Placeholder("new") if name == "conversation_id" else sql.Identifier(name) for name in self._columns
        )
        moved = sql.SQL(
            "with chosen as (select delivery_id from deliveries where tenant_id = %(tenant)s and conversation_id = %(old)s"
            " order by delivery_id limit %(batch)s), gone as (delete from deliveries d using chosen where d.tenant_id = %(tenant)s"
            " and d.delivery_id = chosen.delivery_id and d.conversation_id = %(old)s returning d.*)"
            " insert into deliveries ({names}) select {values} from gone"
        ).format(names=names, values=values)
        return {"deliveries": self._connection.execute(moved, ids).rowcount}

    def _small(self, ids: Mapping[str, Any]) -> dict[str, int]:
        changed: dict[str, int] = {}
        for name, query in _SMALL.items():
            relation = name.split()[-1]
            changed[relation] = changed.get(relation, 0) + self._connection.execute(query.encode(), ids).rowcount
        return changed
