"""Table `seen`: message ids of the last days, so that a message produced twice is delivered once.

Key: tenant, conversation id and message id with slashes between (schemas/keys.py); the same id in another conversation is another
message. Row: a digest of the content, which tells a repetition (dropped) from a reuse of the id for another message (refused, so that
nothing disappears silently), and when it was accepted.
"""

import json
from operator import attrgetter
from typing import Any, NamedTuple

from schemas import content_json, ids
from schemas.keys import message_key
from schemas.records import Message


class Seen(NamedTuple):
    digest: bytes  # 8 bytes of what the message says
    accepted_at: int  # Unix milliseconds; the row lives for the dedupe window from here


class SeenLayout:
    """15 bytes a row, which are 48 in memory: this is the largest table of the product. Older rows have 16, with one more zero."""

    name = "seen"
    version = 1
    packed = True
    bucketed = False  # buckets would take less memory and more time, and every message is looked up here
    keyed_by_record = False  # by the message's id, in its conversation's partition
    time_of = attrgetter("accepted_at")

    def encode(self, row: Seen) -> bytes:
        return row.digest + row.accepted_at.to_bytes(7, "big")

    def decode(self, value: bytes) -> Seen:
        return Seen(value[:8], int.from_bytes(value[8:], "big"))

    def as_json(self, row: Seen) -> Any:
        return {"digest": row.digest.hex(), "accepted_at": row.accepted_at}


SEEN = SeenLayout()


def key(message: Message) -> bytes:
    return message_key(message.tenant_id, message.conversation_id, message.message_id).encode()


def digest(message: Message) -> bytes:
    """Eight bytes over what the recipients would see and who they are; times and labels may differ between repetitions."""
    parts: list[str] = [message.direction, message.sender, message.kind, message.text]
    parts += [repr((r.user_id, r.channel, r.address, r.account)) for r in message.recipients]
    if message.content is not None:
        parts.append(json.dumps(content_json.as_json(message.content)))
    return ids.digest(parts, 8)
