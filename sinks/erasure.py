"""Erases a person from PostgreSQL: text, addresses and names, in bounded transactions.

Enters: a person, and a callback that gets each batch of what was found before the batch is changed. Leaves: changed rows, and a row of
`operator_actions`. Guaranteed: what was found is given to the callback at least once, however often the erasure is interrupted; an erasure
that was interrupted continues; one that is complete finds nothing. Rows of other people stay, and so do counts, times and statuses.

The person is in `erased_people` before the first row changes, so that stage archive blanks what is still on its way. Each transaction first
locks `sink_offsets`, as the sinks do, so that none of their transactions is in between. All functions block.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from psycopg import Connection

from schemas.records import Direction
from sinks import erasure_search
from sinks.erased_ids import erased_id
from sinks.erasure_conversations import ConversationsErasure
from sinks.erasure_letters import LettersErasure
from sinks.erasure_search import BATCH, ErasedPerson

Params = Mapping[str, Any]
_LOCK_SINKS = "select from sink_offsets order by sink, topic, partition for update"
# An event's id as `erased_id` makes it.
_ID = """case when starts_with(event_id, delivery_id || ':') or starts_with(event_id, 'erased:') then event_id
    else 'erased:' || left(encode(sha256(convert_to(tenant_id, 'UTF8') || '\\x00'::bytea || convert_to(event_id, 'UTF8')), 'hex'), 16)
    end"""


class ProviderMessage(NamedTuple):
    """A provider's id of a message to or from the person."""

    channel: str
    account: str
    address: str
    provider_message_id: str


class FoundRows(NamedTuple):
    """What a batch found of the person in one conversation, before it is changed."""

    conversation_id: str
    home_partition: int | None  # None if PostgreSQL does not know it
    delivery_ids: tuple[str, ...] = ()
    messages: tuple[ProviderMessage, ...] = ()


class ErasureAction(NamedTuple):
    """An erasure as `operator_actions` has it. `began_at` in Unix milliseconds."""

    action_id: str
    began_at: int


class _Delivery(NamedTuple):
    """A row of `erasure_search.DELIVERIES`."""

    delivery_id: str
    conversation_id: str
    message_id: str
    home_partition: int
    channel: str
    account: str
    address: str
    recipient: str
    provider_message_ids: Sequence[str]


class _Written(NamedTuple):
    """A row of `erasure_search.WRITTEN`. Channel, account and provider's id are None in a message that no provider reported."""

    conversation_id: str
    message_id: str
    home_partition: int
    sender: str
    channel: str | None
    account: str | None
    provider_message_id: str | None
    direction: str


Publish = Callable[[Sequence[FoundRows]], None]


def begin(connection: Connection, person: ErasedPerson, operator: str, action_id: str, detail: Params) -> ErasureAction:
    """Starts the erasure, or continues one of the same person that was interrupted: its row in `operator_actions`, then the person in
    `erased_people`. One transaction; when it returns, no sink writes without knowing of the erasure."""
    about = {**detail, "person": person.digest}
    with connection.transaction():
        row = (
            connection.execute(
                "select action_id, floor(extract(epoch from began_at) * 1000)::bigint from operator_actions"
                " where action = 'erase' and tenant_id = %s and ended_at is null and detail ->> 'person' = %s order by began_at limit 1",
                (person.tenant_id, person.digest),
            ).fetchone()
            or connection.execute(
                "insert into operator_actions (action_id, action, tenant_id, operator, detail, result)"
                " values (%s, 'erase', %s, %s, %s, '{}') returning action_id, floor(extract(epoch from began_at) * 1000)::bigint",
                (action_id, person.tenant_id, operator, json.dumps(about)),
            ).fetchone()
        )
        assert row is not None  # noqa: S101  # the insert returns a row
        action = ErasureAction(*row)
        connection.execute(
            "insert into erased_people (tenant_id, person, erased_at, action_id)"
            " select %s, digest, to_timestamp(%s / 1000.0), %s from unnest(%s::text[]) as digest"
            " on conflict (tenant_id, person) do update set erased_at = excluded.erased_at, action_id = excluded.action_id"
            " where erased_people.erased_at < excluded.erased_at",
            (person.tenant_id, action.began_at, action.action_id, sorted(person.digests)),
        )
    with connection.transaction():
        connection.execute(_LOCK_SINKS)  # waits for transactions that began without knowing the person
    return action


def is_open(connection: Connection, person: ErasedPerson) -> bool:
    """Whether an erasure of the person was interrupted."""
    row = connection.execute(
        "select exists (select from operator_actions where action = 'erase' and tenant_id = %s and ended_at is null"
        " and detail ->> 'person' = %s)",
        (person.tenant_id, person.digest),
    ).fetchone()
    return bool(row and row[0])


def end(connection: Connection, action: ErasureAction) -> dict[str, int]:
    """Notes that the erasure is complete; returns the number of rows that it changed, by relation, over all its runs."""
    with connection.transaction():
        row = connection.execute(
            "update operator_actions set ended_at = now() where action_id = %s returning result", (action.action_id,)
        ).fetchone()
    return dict(row[0] or {}) if row else {}


class PersonErasure:
    """The changes of one erasure. `keep_opt_outs` leaves relation `suppressions` alone. Every method is a series of transactions."""

    def __init__(
        self, connection: Connection, person: ErasedPerson, action: ErasureAction, *, keep_opt_outs: bool
    ) -> None:
        self._connection = connection
        self._person = person
        self._action = action
        self._keep_opt_outs = keep_opt_outs
        self._at: dict[str, Any] = {**person.params, "erased_at": action.began_at, "batch": BATCH}

    def run(self, publish: Publish) -> Iterator[Mapping[str, int]]:
        """Erases everything but the contact; yields the rows changed by each transaction, by relation."""
        yield from self._deliveries(publish)
        yield from self._written(publish)
        yield from self._cursors(publish)
        yield from self._participations()
        yield from self._members(publish)
        yield self._change(self._rest)
        yield from ConversationsErasure(self._connection, self._person, self._change).run()
        yield from LettersErasure(self._connection, self._person).run(self._note)

    def forget_contact(self) -> Mapping[str, int]:
        """Deletes the contact: the last step, because an interrupted erasure finds the addresses there."""
        return self._change(
            lambda: {
                "contacts": self._execute(
                    "delete from contacts where tenant_id = %(tenant)s and user_id = %(user)s", {}
                )
            }
        )

    # --- one transaction each ---------------------------------------------------------------------------------------------

    def _change(self, step: Callable[[], Mapping[str, int]]) -> Mapping[str, int]:
        with self._connection.transaction():
            self._connection.execute(_LOCK_SINKS)
            changed = Counter(step())
            self._note(changed)
        return +changed

    def _note(self, changed: Mapping[str, int]) -> None:
        """Adds to the counts of `operator_actions`, in the transaction that changes the rows."""
        row = self._connection.execute(
            "select result from operator_actions where action_id = %s", (self._action.action_id,)
        ).fetchone()
        total = Counter(row[0] or {} if row else {}) + Counter(changed)
        self._connection.execute(
            "update operator_actions set result = %s where action_id = %s", (json.dumps(total), self._action.action_id)
        )

    def _execute(self, query: str, more: Params) -> int:
        return self._connection.execute(query.encode(), {**self._at, **more}).rowcount

    def _rows(self, query: str, more: Params) -> list[tuple[Any, ...]]:
        with self._connection.transaction():
            return self._connection.execute(query.encode(), {**self._at, **more}).fetchall()

    # --- deliveries and what was sent to the person alone -------------------------------------------------------------------

    def _deliveries(self, publish: Publish) -> Iterator[Mapping[str, int]]:
        after = ""
        while found := [_Delivery(*row) for row in self._rows(erasure_search.DELIVERIES, {"after": after})]:
            after = found[-1].delivery_id
            of_conversations: dict[tuple[str, int], list[_Delivery]] = {}
            for each in found:
                of_conversations.setdefault((each.conversation_id, each.home_partition), []).append(each)
            publish(
                [
                    FoundRows(*of, tuple(d.delivery_id for d in rows), _sent(rows))
                    for of, rows in of_conversations.items()
                ]
            )
            yield self._change(partial(self._blank_deliveries, found))

    def _blank_deliveries(self, found: Sequence[_Delivery]) -> dict[str, int]:
        words = [self._person.word_of(each.channel, each.recipient, each.address) for each in found]
        named = {"ids": [each.delivery_id for each in found], "words": words}
        sent = {
            "conversations": [each.conversation_id for each in found],
            "messages": [each.message_id for each in found],
        }
        return {
            "delivery_events": self._execute(
                f"update delivery_events set event_id = {_ID}, provider_message_id = null, reason = null"  # noqa: S608  # our own text
                " where tenant_id = %(tenant)s and delivery_id = any(%(ids)s)",
                named,
            ),
            "deliveries": self._execute(
                f"update deliveries set recipient = word, address = word, provider_message_id = null, reason = null, event_id = {_ID}"  # noqa: S608  # the same
                " from unnest(%(ids)s::text[], %(words)s::text[]) as a (id, word) where tenant_id = %(tenant)s and delivery_id = a.id",
                named,
            ),
            "messages": self._execute(erasure_search.BLANK_SENT.format(relation="messages"), sent),
            "message_conflicts": self._execute(erasure_search.BLANK_SENT.format(relation="message_conflicts"), sent),
        }

    # --- what the person wrote ----------------------------------------------------------------------------------------------

    def _written(self, publish: Publish) -> Iterator[Mapping[str, int]]:
        place = {"conversation": "", "message": ""}
        while found := [_Written(*row) for row in self._rows(erasure_search.WRITTEN, place)]:
            place = {"conversation": found[-1].conversation_id, "message": found[-1].message_id}
            of_conversations: dict[tuple[str, int], list[ProviderMessage]] = {}
            for each in found:
                written = of_conversations.setdefault((each.conversation_id, each.home_partition), [])
                if each.channel and each.account and each.provider_message_id:
                    written.append(ProviderMessage(each.channel, each.account, each.sender, each.provider_message_id))
            publish([FoundRows(*of, (), tuple(written)) for of, written in of_conversations.items()])
            yield self._change(partial(self._blank_written, found))

    def _blank_written(self, found: Sequence[_Written]) -> dict[str, int]:
        named = {
            "conversations": [each.conversation_id for each in found],
            "messages": [each.message_id for each in found],
            "words": [self._person.words[each.sender] for each in found],
            "ids": [self._id_of(each) for each in found],
        }
        return {"messages": self._execute(erasure_search.BLANK_WRITTEN, named)}

    def _id_of(self, written: _Written) -> str:
        """The id of a message from a person has the provider's id in it; an application chose the others."""
        if written.direction != Direction.INBOUND:
            return written.message_id
        return erased_id(self._person.tenant_id, "", written.message_id)

    # --- where the person is a member ---------------------------------------------------------------------------------------

    def _cursors(self, publish: Publish) -> Iterator[Mapping[str, int]]:
        while found := self._rows(erasure_search.CURSORS, {}):
            publish([FoundRows(conversation, partition) for conversation, partition, _ in found])
            yield self._change(partial(self._rename_cursors, found))

    def _rename_cursors(self, found: Sequence[tuple[Any, ...]]) -> dict[str, int]:
        renamed = {
            "conversations": [row[0] for row in found],
            "names": [row[2] for row in found],
            "words": [self._person.words[row[2]] for row in found],
        }
        ended = self._execute(erasure_search.END_CURSORS, renamed)  # the name is there from an earlier erasure
        return {"cursors": ended + self._execute(erasure_search.RENAME_CURSORS, renamed)}

    def _participations(self) -> Iterator[Mapping[str, int]]:
        while (changed := self._change(self._rename_participants))["participants"]:
            yield changed

    def _rename_participants(self) -> dict[str, int]:
        words = {"words": self._person.senders}
        return {"participants": self._execute(erasure_search.RENAME_PARTICIPANTS, words)}

    def _members(self, publish: Publish) -> Iterator[Mapping[str, int]]:
        after = ""
        while found := self._rows(erasure_search.MEMBERS, {"after": after}):
            after = found[-1][0]
            publish([FoundRows(conversation, partition) for conversation, partition, _ in found])
            yield self._change(partial(self._rename_members, found))

    def _rename_members(self, found: Sequence[tuple[Any, ...]]) -> dict[str, int]:
        changed = 0
        for conversation, _, members in found:
            renamed = [self._person.words.get(each, each) for each in members]
            changed += self._execute(
                "update conversations set members = %(members)s where tenant_id = %(tenant)s and conversation_id = %(conversation)s"
                " and members = %(before)s",
                {"members": renamed, "conversation": conversation, "before": members},
            )
        return {"conversations": changed}

    def _rest(self) -> dict[str, int]:
        """Small relations: all rows in one transaction."""
        changed = {"message_conflicts": self._execute(erasure_search.BLANK_CONFLICTS, {"words": self._person.senders})}
        if not self._keep_opt_outs:
            changed["suppressions"] = self._execute(erasure_search.FORGET_SUPPRESSIONS, {})
        return changed


def _sent(rows: Sequence[_Delivery]) -> tuple[ProviderMessage, ...]:
    return tuple(
        ProviderMessage(row.channel, row.account, row.address, each)
        for row in rows
        for each in row.provider_message_ids
    )
