"""Erases a person from dead letters and from receipts without a delivery, in PostgreSQL.

Enters: a person. Leaves: rows without key, value, headers and sentence. A dead letter is the person's if the record inside names them,
or if bytes that cannot be read contain an address. Guaranteed: looks at every row once, in bounded batches; what was erased is not looked
at again; a dead letter of another tenant stays. Erasing a dead letter means that it cannot be sent again. All functions block.
"""

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from psycopg import Connection

from schemas import codec
from schemas.keys import DEFAULT_TENANT
from schemas.person_addresses import one_form
from sinks.erased_ids import erased_id
from sinks.erasure_search import ErasedPerson

BATCH = 50  # dead letters of a transaction; each may have some megabytes
_RECEIPTS = 500
_NUMBER = re.compile(r"\+?[0-9]{8,}")
# A dead letter of a record that could not be read is of no tenant: it has the name of the default one.
_LETTERS = """
    select tenant_id, dead_letter_id, key, value, headers::text, detail, conversation_id from dead_letters
     where tenant_id = any(%s) and (tenant_id, dead_letter_id) > (%s, %s) and erased_at is null
     order by tenant_id, dead_letter_id limit %s
"""
_ORPHANS = """
    select tenant_id, event_id, dead_letter_id, provider_message_id from orphan_receipts
     where tenant_id = any(%s) and (tenant_id, event_id, dead_letter_id) > (%s, %s, %s) and not starts_with(provider_message_id, 'erased:')
     order by tenant_id, event_id, dead_letter_id limit %s
"""


class NamedIn:
    """Whether a record, a text or bytes name a person. Holds the person only; pure."""

    def __init__(self, person: ErasedPerson) -> None:
        self._tenant = person.tenant_id
        self._names = frozenset(name for name in person.words if name)
        addresses = [address for _, address in person.forms]
        self._bytes = [address.encode(errors="surrogatepass") for address in addresses]
        self._numbers = frozenset(one_form("whatsapp", each) for channel, each in person.forms if channel == "whatsapp")
        alone = "|".join(re.escape(each) for each in sorted(addresses, key=len, reverse=True))
        self._alone = re.compile(rf"(?<![0-9A-Za-z])(?:{alone})(?![0-9A-Za-z])") if addresses else None

    def text(self, text: str) -> bool:
        """Whether a text is a name of the person, or has an address in it: as a word, as a number in another form, or within an id of
        WhatsApp."""
        if text in self._names or (self._alone is not None and self._alone.search(text)):
            return True
        if self._numbers and any(one_form("whatsapp", each) in self._numbers for each in _NUMBER.findall(text)):
            return True
        return text.startswith("wamid.") and self._in_wamid(text[len("wamid.") :])

    def raw(self, value: bytes) -> bool:
        """Whether bytes that are no record contain an address."""
        return any(each in value for each in self._bytes)

    def record(self, value: bytes) -> bool | None:
        """Whether the record of these bytes is of the tenant, or of none, and names the person; None if there is no record in them."""
        try:
            record = codec.decode_any(value)
        except codec.CodecError:
            return None
        if record.tenant_id not in {self._tenant, DEFAULT_TENANT}:
            return False
        return any(self.text(each) for each in _texts(record))

    def letter(self, tenant: str, key: bytes | None, value: bytes | None, *words: str | None) -> bool:
        """Whether a dead letter of this tenant names the person."""
        named = None if value is None else self.record(value)
        if named is None and value is not None:
            named = self.raw(value)
        if named or tenant != self._tenant:
            return bool(named)
        texts = [word for word in words if word]
        try:
            texts.append((key or b"").decode())
        except UnicodeDecodeError:
            return self.raw(key or b"") or any(map(self.text, texts))
        return any(map(self.text, texts))

    def _in_wamid(self, coded: str) -> bool:
        """An id of WhatsApp has the number in base64."""
        try:
            inside = base64.b64decode(coded + "=" * (-len(coded) % 4))
        except (binascii.Error, ValueError):
            return False
        return any(each in inside for each in self._bytes) or any(each.encode() in inside for each in self._numbers)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a record, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _texts(getattr(value, each.name))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


class LettersErasure:
    """The dead letters and orphan receipts of one person."""

    def __init__(self, connection: Connection, person: ErasedPerson) -> None:
        self._connection = connection
        self._tenants = sorted({person.tenant_id, DEFAULT_TENANT})
        self._person = person
        self._named = NamedIn(person)

    def count(self) -> dict[str, int]:
        """How many rows an erasure would change."""
        return {"dead_letters": sum(map(len, self._letters())), "orphan_receipts": sum(map(len, self._orphans()))}

    def run(self, note: Callable[[Mapping[str, int]], None]) -> Iterator[Mapping[str, int]]:
        """Erases them; yields the rows changed by each transaction, by relation. `note` is called within it."""
        for found in self._letters():
            yield self._change("dead_letters", _BLANK_LETTERS, found, note)
        for found in self._orphans():
            yield self._change("orphan_receipts", _BLANK_ORPHANS, found, note)

    def _change(
        self, relation: str, query: str, found: list[tuple[str, ...]], note: Callable[[Mapping[str, int]], None]
    ) -> Mapping[str, int]:
        with self._connection.transaction():
            columns = [list(each) for each in zip(*found, strict=True)]
            changed = {relation: self._connection.execute(query.encode(), columns).rowcount}
            note(changed)
        return changed

    def _letters(self) -> Iterator[list[tuple[str, ...]]]:
        """Tenant and id of the person's dead letters, a batch at a time."""
        place = ("", "")
        while rows := self._rows(_LETTERS, place, BATCH):
            place = rows[-1][:2]
            named = [row[:2] for row in rows if self._named.letter(row[0], _bytes(row[2]), _bytes(row[3]), *row[4:])]
            if named:
                yield named

    def _orphans(self) -> Iterator[list[tuple[str, ...]]]:
        """The key of the person's receipts, a batch at a time, and what replaces the ids in them."""
        place = ("", "", "")
        while rows := self._rows(_ORPHANS, place, _RECEIPTS):
            place = rows[-1][:3]
            named = [row for row in rows if self._named.text(row[3]) or self._named.text(row[1])]
            if named:
                yield [(*row[:3], *(erased_id(row[0], "", each) for each in (row[1], row[3]))) for row in named]

    def _rows(self, query: str, place: tuple[str, ...], at_most: int) -> list[tuple[Any, ...]]:
        with self._connection.transaction():
            return self._connection.execute(query.encode(), (self._tenants, *place, at_most)).fetchall()


_BLANK_LETTERS = """
    update dead_letters d set key = null, value = null, headers = null, detail = '', conversation_id = null, erased_at = now()
      from unnest(%s::text[], %s::text[]) as a (tenant_id, dead_letter_id)
     where d.tenant_id = a.tenant_id and d.dead_letter_id = a.dead_letter_id
"""
_BLANK_ORPHANS = """
    update orphan_receipts o set event_id = a.new_event, provider_message_id = a.new_id
      from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) as a (tenant_id, event_id, dead_letter_id, new_event, new_id)
     where o.tenant_id = a.tenant_id and o.event_id = a.event_id and o.dead_letter_id = a.dead_letter_id
"""


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
