"""Masks texts and addresses in rows: ids, codes, counts and times stay readable.

In: a row as plain data, or a key. Out: the same, with MASK in place of every field that SHOWN does not name. Guaranteed: an unknown field
is masked. An id that contains a person's address (inbound conversations and messages, keys of bindings) keeps its channel and account; a
number as long as a telephone number is masked in any id.
"""

import re
from collections.abc import Mapping
from typing import Any

from schemas.records import CHANNELS, Status

MASK = "***"
SHOWN = frozenset(
    # ids
    {"account", "channel", "conversation", "conversation_id", "delivery_id", "digest", "events", "message_id"}
    | {"delivery_ids", "fallback_of", "source", "tenant_id"}
    # codes
    | {"cause", "direction", "error_code", "failure", "kind", "language", "long_text", "phase", "previous_status", "reason_code"}
    | {"status"}
    # counts
    | {"attempt", "attempts", "failures", "throttled", "throttles", "home_partition", "inferred", "known", "number", "part", "part_since", "partial", "ranges"}
    | {"resends", "scheduled_before", "seq", "size", "version"}
    # cursors
    | {"last_delivered_seq", "last_read_seq", "unread", "made", "made_seq", "ended", "ended_seq", "observed_seq", "read", "read_seq"}
    | {"runs", "failed", "sees_delivered", "sees_read"}
    # states of messages: the number of deliveries by status, and the worst and the best status
    | {"counts", "worst", "best", "sent", "delivered", *Status}
    # conversations of a person, and receipts without a delivery
    | {"conversations", "latest_at", "reasons"}
    # suppressions
    | {"wish", "wish_stops", "wish_at", "reach", "reach_stops", "reach_at", "confirmation_id", "lifted_at"}
    # times
    | {"accepted_at", "bound_at", "covered_delivered_at", "covered_read_at", "delivered_at", "due_at", "kept_from"}
    | {"closes_at", "decided_at", "dispatched_at", "expires_at", "failed_at", "first_dispatched_at", "not_before", "observed_at", "occurred_at", "opened_at"}
    | {"provider_at", "read_at", "ready_at", "reason_at", "received_at", "requested_at", "retry_at", "sent_at", "since", "stalled_at", "updated_at"}
)  # fmt: skip  # one group a line
# Masked as a whole, names included: the application chooses them.
WHOLE = frozenset({"metadata"})
# Table -> how many parts of its keys, between slashes, name no person; the rest does, as a user id or an address of any form.
PARTS_SHOWN = {"cursors": 1, "member_addresses": 2}
_OF_A_PERSON = re.compile(
    rf"\b({'|'.join(CHANNELS)})(?:(:)([^:/]*):.*|(%3A)((?:(?!%3A)[^/:])*)%3A[^/]*)", re.IGNORECASE | re.DOTALL
)
_NUMBER = re.compile(r"(?<![0-9A-Za-z])\+?[0-9]{8,15}(?![0-9A-Za-z])")


def masked_id(text: str) -> str:
    """An id, a key or a path with personal parts masked."""
    parts, end = [], 0
    for found in _OF_A_PERSON.finditer(text):
        parts += [_NUMBER.sub(MASK, text[end : found.start()]), _without_person(found)]
        end = found.end()
    return "".join((*parts, _NUMBER.sub(MASK, text[end:])))


def masked_key(table: str, key: str) -> str:
    """The key of a table's row with personal parts masked."""
    number = PARTS_SHOWN.get(table)
    if number is not None:
        key = "/".join((*key.split("/")[:number], MASK))
    return masked_id(key)


def _without_person(found: "re.Match[str]") -> str:
    channel, plain, account, quoted, its_account = found.groups()
    return f"{channel}:{account}:{MASK}" if plain else f"{channel}{quoted}{its_account}{quoted}{MASK}"


def masked(row: Any) -> Any:
    """A row as plain data, with texts and addresses masked."""
    return _masked(row, shown=False)


def _masked(value: Any, *, shown: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            name: MASK if name in WHOLE and each else _masked(each, shown=name in SHOWN) for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(each, shown=shown) for each in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if not shown:
        return MASK
    return masked_id(value) if isinstance(value, str) else value
