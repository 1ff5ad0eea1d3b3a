"""Finds what PostgreSQL holds of a person: who they are, and the statements of an erasure.

Enters: a tenant, and a user id or an address. Leaves: the person with all addresses, and numbers of rows. Guaranteed: reads only; looks at
every row of the tenant once, in the order of a primary key, so that a search of many rows needs no memory. All functions block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from psycopg import Connection

from schemas.person_addresses import one_form
from schemas.records import CHANNELS, Address
from sinks.erased_people import erased_name, person_digest

BATCH = 500  # rows of a transaction; also the most ids of one record of topic `erasures`

# The person's deliveries. `user` is null for a person without a contact.
_OF_PERSON = """(recipient = %(user)s or (channel, address) in (select * from unnest(%(channels)s::text[], %(addresses)s::text[])))"""
DELIVERIES = f"""
    select delivery_id, conversation_id, message_id, home_partition, channel, account, address, recipient,
           array(select distinct e.provider_message_id from delivery_events e
                  where e.tenant_id = d.tenant_id and e.delivery_id = d.delivery_id and e.provider_message_id is not null)
           || array_remove(array[d.provider_message_id], null)
      from deliveries d
     where tenant_id = %(tenant)s and delivery_id > %(after)s and {_OF_PERSON}
     order by delivery_id limit %(batch)s
"""  # noqa: S608  # our own text
# A message keeps its text if one of its recipients is not erased.
BLANK_SENT = """
    update {relation} m set text = '', content = null, metadata = '{{}}'
      from (select distinct * from unnest(%(conversations)s::text[], %(messages)s::text[])) as a (conversation_id, message_id)
     where m.tenant_id = %(tenant)s and m.conversation_id = a.conversation_id and m.message_id = a.message_id
       and not exists (select from deliveries d
                        where d.tenant_id = m.tenant_id and d.message_id = m.message_id and d.conversation_id = m.conversation_id
                          and not starts_with(d.address, 'erased:'))
"""
WRITTEN = """
    select conversation_id, message_id, home_partition, sender, metadata ->> 'channel', metadata ->> 'account',
           metadata ->> 'provider_message_id', direction
      from messages
     where tenant_id = %(tenant)s and (conversation_id, message_id) > (%(conversation)s, %(message)s) and sender = any(%(names)s)
     order by conversation_id, message_id limit %(batch)s
"""
BLANK_WRITTEN = """
    update messages m set text = '', content = null, metadata = '{}', sender = a.word, message_id = a.new_id
      from unnest(%(conversations)s::text[], %(messages)s::text[], %(words)s::text[], %(ids)s::text[])
           as a (conversation_id, message_id, word, new_id)
     where m.tenant_id = %(tenant)s and m.conversation_id = a.conversation_id and m.message_id = a.message_id and m.sender = any(%(names)s)
"""
CURSORS = """
    select conversation_id, home_partition, member from cursors
     where tenant_id = %(tenant)s and member = any(%(names)s) order by member, conversation_id limit %(batch)s
"""
_NAMED = "unnest(%(conversations)s::text[], %(names)s::text[], %(words)s::text[]) as a (conversation_id, name, word)"
END_CURSORS = f"""
    delete from cursors c using {_NAMED}
     where c.tenant_id = %(tenant)s and c.conversation_id = a.conversation_id and c.member = a.name
       and exists (select from cursors o where o.tenant_id = c.tenant_id and o.conversation_id = c.conversation_id and o.member = a.word)
"""  # noqa: S608  # the same
RENAME_CURSORS = f"""
    update cursors c set member = a.word from {_NAMED}
     where c.tenant_id = %(tenant)s and c.conversation_id = a.conversation_id and c.member = a.name
"""  # noqa: S608  # the same
RENAME_PARTICIPANTS = """
    with found as (
        select person, conversation_id from participants where tenant_id = %(tenant)s and person = any(%(names)s) limit %(batch)s
    ), renamed as (
        insert into participants (tenant_id, person, conversation_id)
        select distinct %(tenant)s, a.word, found.conversation_id
          from found join unnest(%(names)s::text[], %(words)s::text[]) as a (name, word) on a.name = found.person
        on conflict do nothing
    )
    delete from participants p using found
     where p.tenant_id = %(tenant)s and p.person = found.person and p.conversation_id = found.conversation_id
"""
MEMBERS = """
    select conversation_id, home_partition, members from conversations
     where tenant_id = %(tenant)s and conversation_id > %(after)s and members && %(names)s::text[]
     order by conversation_id limit %(batch)s
"""
BLANK_CONFLICTS = """
    update message_conflicts set text = '', content = null, metadata = '{}', sender = a.word
      from unnest(%(names)s::text[], %(words)s::text[]) as a (name, word)
     where tenant_id = %(tenant)s and sender = a.name
"""
_SUPPRESSED = """tenant_id = %(tenant)s and (channel, address) in (select * from unnest(%(channels)s::text[], %(addresses)s::text[]))"""
FORGET_SUPPRESSIONS = f"delete from suppressions where {_SUPPRESSED}"  # noqa: S608  # the same


@dataclass(frozen=True)
class ErasedPerson:
    """A person of a tenant. `user_id` is empty without a contact. `addresses` has each address with each account that knows it; an account
    is None where none is known."""

    tenant_id: str
    user_id: str
    addresses: tuple[Address, ...]

    @property
    def digest(self) -> str:
        """Stands for the person in `operator_actions`."""
        if self.user_id:
            return person_digest(self.tenant_id, "", self.user_id)
        return person_digest(self.tenant_id, self.addresses[0].channel, self.addresses[0].address)

    @property
    def digests(self) -> set[str]:
        """For `erased_people`."""
        of_addresses = {person_digest(self.tenant_id, each.channel, each.address) for each in self.addresses}
        return of_addresses | ({person_digest(self.tenant_id, "", self.user_id)} if self.user_id else set())

    @cached_property
    def forms(self) -> tuple[tuple[str, str], ...]:
        """Every channel and address, in all forms that a provider or an application may use."""
        found = {(each.channel, form) for each in self.addresses for form in forms_of(each.channel, each.address)}
        return tuple(sorted(found))

    @cached_property
    def words(self) -> Mapping[str, str]:
        """User id and addresses, each with the word that replaces it where it stands alone, as a sender or a member."""
        found = {self.user_id: erased_name(person_digest(self.tenant_id, "", self.user_id))} if self.user_id else {}
        for channel, address in sorted(self.forms, key=lambda form: CHANNELS.index(form[0])):
            found.setdefault(address, erased_name(person_digest(self.tenant_id, channel, address)))
        return found

    @property
    def senders(self) -> list[str]:
        """The words in the order of `params["names"]`."""
        return [self.words[name] for name in self.params["names"]]

    def word_of(self, channel: str, recipient: str, address: str) -> str:
        """The word that replaces the recipient and the address of a delivery."""
        if self.user_id and recipient == self.user_id:
            return self.words[recipient]
        return erased_name(person_digest(self.tenant_id, channel, address))

    @cached_property
    def params(self) -> dict[str, Any]:
        """For the statements of this module."""
        return {
            "tenant": self.tenant_id,
            "user": self.user_id or None,
            "channels": [channel for channel, _ in self.forms],
            "addresses": [address for _, address in self.forms],
            "names": sorted(self.words),
        }


class KnownOptOut(NamedTuple):
    """A suppression of the person. It names no address."""

    channel: str
    account: str
    reason: str
    changed_at: Any


def forms_of(channel: str, address: str) -> Iterator[str]:
    """The address, and on WhatsApp the other forms of the number: with and without a plus, and with and without the digit that a number of
    Brazil, Mexico and Argentina may have (schemas/person_addresses.py)."""
    yield address
    if channel != "whatsapp":
        return
    short = one_form(channel, address)
    numbers = [short]
    if short.isdigit() and len(short) == 12:
        digit = {"55": (4, "9"), "52": (2, "1"), "54": (2, "9")}.get(short[:2])
        if digit is not None:
            numbers.append(short[: digit[0]] + digit[1] + short[digit[0] :])
    for number in numbers:
        yield from (number, f"+{number}")


def contact(connection: Connection, tenant: str, user_id: str) -> ErasedPerson:
    """The person with this user id: the addresses of the contact, and those to which deliveries to the user went. Both may be missing."""
    row = connection.execute(
        "select addresses from contacts where tenant_id = %s and user_id = %s", (tenant, user_id)
    ).fetchone()
    given = (
        [Address(**{name: each.get(name) for name in ("channel", "address", "account")}) for each in row[0]]
        if row
        else []
    )
    used = connection.execute(
        "select distinct channel, address, account from deliveries"
        " where tenant_id = %s and recipient = %s and not starts_with(address, 'erased:')",
        (tenant, user_id),
    ).fetchall()
    return _known(
        connection,
        ErasedPerson(
            tenant, user_id, tuple(given) + tuple(Address(channel=c, address=a, account=n) for c, a, n in used)
        ),
    )


def of_address(connection: Connection, tenant: str, channel: str, address: str) -> ErasedPerson:
    """The person with this address."""
    return _known(connection, ErasedPerson(tenant, "", (Address(channel=channel, address=address),)))


def _known(connection: Connection, person: ErasedPerson) -> ErasedPerson:
    """The person with each account that has sent to an address or got something from it, in the form that was used."""
    found = dict.fromkeys((each.channel, each.address, each.account) for each in person.addresses)
    sent = connection.execute(
        b"select distinct channel, address, account from deliveries where tenant_id = %(tenant)s"
        b" and (channel, address) in (select * from unnest(%(channels)s::text[], %(addresses)s::text[]))",
        person.params,
    ).fetchall()
    wrote = connection.execute(
        b"select distinct m.metadata ->> 'channel', m.sender, m.metadata ->> 'account' from messages m"
        b" where m.tenant_id = %(tenant)s and m.sender = any(%(names)s) and m.direction = 'INBOUND' and m.metadata ? 'account'",
        person.params,
    ).fetchall()
    refused = connection.execute(
        f"select distinct channel, address, account from suppressions where {_SUPPRESSED}".encode(),  # noqa: S608  # our own text
        person.params,
    ).fetchall()
    forms = set(person.forms)
    found |= dict.fromkeys((*each,) for each in (*sent, *refused))
    found |= dict.fromkeys((*each,) for each in wrote if (each[0], each[1]) in forms)
    addresses = tuple(Address(channel=c, address=a, account=n) for c, a, n in found if a)
    return ErasedPerson(person.tenant_id, person.user_id, addresses)


def survey(connection: Connection, person: ErasedPerson) -> dict[str, int]:
    """How many rows of each relation an erasure would change, without dead letters. Looks at every row of the tenant."""
    counted = {
        "deliveries": f"select count(*) from deliveries where tenant_id = %(tenant)s and {_OF_PERSON}",  # noqa: S608  # the same
        "messages": "select count(*) from messages where tenant_id = %(tenant)s and sender = any(%(names)s)",
        "message_conflicts": "select count(*) from message_conflicts where tenant_id = %(tenant)s and sender = any(%(names)s)",
        "cursors": "select count(*) from cursors where tenant_id = %(tenant)s and member = any(%(names)s)",
        "participants": "select count(*) from participants where tenant_id = %(tenant)s and person = any(%(names)s)",
        "conversations": "select count(*) from conversations where tenant_id = %(tenant)s and members && %(names)s::text[]",
        "suppressions": f"select count(*) from suppressions where {_SUPPRESSED}",  # noqa: S608  # the same
        "contacts": "select count(*) from contacts where tenant_id = %(tenant)s and user_id = %(user)s",
    }
    return {relation: _count(connection, query, person) for relation, query in counted.items()}


def _count(connection: Connection, query: str, person: ErasedPerson) -> int:
    row = connection.execute(query.encode(), person.params).fetchone()
    return int(row[0]) if row else 0


def opt_outs(connection: Connection, person: ErasedPerson) -> list[KnownOptOut]:
    """The suppressions of the person that hold now."""
    rows = connection.execute(
        f"select channel, account, reason, changed_at from suppressions where {_SUPPRESSED} and suppressed order by 1, 2".encode(),  # noqa: S608  # the same
        person.params,
    ).fetchall()
    return [KnownOptOut(*row) for row in rows]


def is_erased(connection: Connection, person: ErasedPerson) -> bool:
    """Whether the person was erased before."""
    row = connection.execute(
        "select exists (select from erased_people where tenant_id = %s and person = %s)",
        (person.tenant_id, person.digest),
    ).fetchone()
    return bool(row and row[0])
