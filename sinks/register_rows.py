"""Contacts, suppressions, dead letters and orphan receipts as rows, and the SQL that merges them.

Enters: Contact, Suppression and DeadLetter. Leaves: rows for COPY into temporary relations (sinks/staging.py), and the statements that
merge those. Guaranteed: a merge never replaces a newer row by an older one; merging a batch again changes nothing. Pure:
sinks/register_sink.py runs the statements.
"""

import base64
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from schemas import codec
from schemas.person_addresses import one_form
from schemas.records import Contact, DeadLetter, Header, Receipt, Record, Suppression
from sinks.erased_people import Erased
from sinks.staging import Staging

# Causes with which stage match refuses a receipt for which there is no delivery.
ORPHAN_CAUSES = frozenset({"orphan_receipt", "wrong_tenant", "wrong_partition", "too_many_waiting"})


class LetterRow(NamedTuple):
    """A row of `dead_letters`. `conversation_id` is that of the record inside, if it can be read."""

    tenant_id: str
    dead_letter_id: str
    stage: str
    cause: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] | None
    refused_at: int
    conversation_id: str | None
    erased_at: int | None


class OrphanRow(NamedTuple):
    """A row of `orphan_receipts`."""

    tenant_id: str
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


def inside(letter: DeadLetter) -> Record | None:
    """The refused record, if its bytes are one of ours, whatever is wrong with it; else None."""
    try:
        return codec.decode_any(letter.value)
    except codec.CodecError:
        return None


def letter_row(letter: DeadLetter, erased: Erased) -> LetterRow:
    """The row; without key, value, headers and detail if the record inside names somebody who was erased since."""
    found = inside(letter)
    erased_at = erased.erased_at(found, letter.refused_at) if found is not None and erased else None
    return LetterRow(
        letter.tenant_id,
        letter.dead_letter_id,
        letter.stage,
        letter.cause,
        letter.detail if erased_at is None else "",
        letter.source_topic,
        letter.source_partition,
        letter.source_offset,
        letter.source_timestamp,
        letter.key if erased_at is None else None,
        letter.value if erased_at is None else None,
        letter.headers if erased_at is None else None,
        letter.refused_at,
        getattr(found, "conversation_id", None) or None,
        erased_at,
    )


def orphan_row(letter: DeadLetter) -> OrphanRow | None:
    """The receipt in a dead letter; None if it holds none, or one that had a delivery."""
    if letter.source_topic != "receipts" or letter.cause not in ORPHAN_CAUSES:
        return None
    receipt = inside(letter)
    if not isinstance(receipt, Receipt):
        return None
    return OrphanRow(
        letter.tenant_id,
        receipt.event_id,
        receipt.channel,
        receipt.account,
        receipt.provider_message_id,
        receipt.status,
        letter.cause,
        receipt.provider_at,
        receipt.received_at,
        letter.refused_at,
        receipt.error_code,
        letter.dead_letter_id,
    )


def in_one_form(suppression: Suppression) -> Suppression:
    """With the address as the topic's key has it: every form of an address is one row."""
    return replace(suppression, address=one_form(suppression.channel, suppression.address))


def _addresses(addresses: Iterable[Any]) -> list[dict[str, Any]]:
    return [{"channel": each.channel, "address": each.address, "account": each.account} for each in addresses]


def _headers(headers: Iterable[Header]) -> list[dict[str, Any]]:
    """Values that are UTF-8 as `text`, others as `base64`, null as neither."""
    return [{"key": header.key, **_header_value(header.value)} for header in headers]


def _header_value(value: bytes | None) -> dict[str, str]:
    if value is None:
        return {}
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


CONTACTS = Staging(
    "contacts", Contact, kinds={"addresses": "json", "opt_outs": "texts"}, before={"addresses": _addresses}
)
SUPPRESSIONS = Staging(
    "suppressions",
    Suppression,
    without=("confirmation_id",),
    kinds=dict.fromkeys(("channel", "account", "address"), "key") | {"suppressed": "bool"},
)
LETTERS = Staging(
    "dead_letters",
    LetterRow,
    kinds={"source_partition": "int", "source_offset": "bigint", "source_timestamp": "time", "cause": "text"}
    | {"key": "bytes", "value": "bytes", "headers": "json", "dead_letter_id": "key"},
    before={"headers": _headers},
)
ORPHANS = Staging("orphan_receipts", OrphanRow, kinds={"dead_letter_id": "key", "cause": "text"})

_contact = ", ".join(CONTACTS.columns)
# A contact that is written again with the same time is the newer one.
MERGE_CONTACTS = f"""
    insert into contacts as c ({_contact}) select {_contact} from staged_contacts order by tenant_id, user_id
    on conflict (tenant_id, user_id) do update
       set (addresses, opt_outs, time_zone, updated_at, archived_at)
         = (excluded.addresses, excluded.opt_outs, excluded.time_zone, excluded.updated_at, excluded.archived_at)
     where c.updated_at <= excluded.updated_at
       and (c.addresses, c.opt_outs, c.time_zone, c.updated_at)
           is distinct from (excluded.addresses, excluded.opt_outs, excluded.time_zone, excluded.updated_at)
"""  # noqa: S608  # column names come from our own records
# Parameters: tenants and user ids, two lists of one length.
DELETE_CONTACTS = "delete from contacts where (tenant_id, user_id) in (select * from unnest(%s::text[], %s::text[]))"
_suppression = ", ".join(SUPPRESSIONS.columns)
MERGE_SUPPRESSIONS = f"""
    insert into suppressions as c ({_suppression}) select {_suppression} from staged_suppressions
     order by tenant_id, channel, account, address
    on conflict (tenant_id, channel, account, address) do update
       set (suppressed, reason, changed_at, archived_at)
         = (excluded.suppressed, excluded.reason, excluded.changed_at, excluded.archived_at)
     where c.changed_at <= excluded.changed_at
       and (c.suppressed, c.reason, c.changed_at) is distinct from (excluded.suppressed, excluded.reason, excluded.changed_at)
"""  # noqa: S608  # the same
_letter = ", ".join(LETTERS.columns)
MERGE_LETTERS = f"insert into dead_letters ({_letter}) select {_letter} from staged_dead_letters on conflict do nothing"  # noqa: S608  # the same
_orphan = ", ".join(ORPHANS.columns)
MERGE_ORPHANS = (
    f"insert into orphan_receipts ({_orphan}) select {_orphan} from staged_orphan_receipts on conflict do nothing"  # noqa: S608  # the same
)
