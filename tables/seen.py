"""Table `seen` of stage route: the message ids of the last days, so that a message produced twice is delivered once.

Key: tenant, conversation id and message id with slashes between them (schemas/keys.py). The same id in another conversation is another
message. Row: a digest of the content and the time of acceptance. An equal digest is a repetition, which is dropped; another digest is a
second message under the same id, which is refused, so that nothing is lost silently.
"""

import json
from operator import attrgetter
from typing import Any, NamedTuple

from schemas import content_json, ids
from schemas.keys import message_key
from schemas.records import Message


class Seen(NamedTuple):
    digest: bytes  # 8 bytes, as `digest` makes them
    accepted_at: int  # Unix milliseconds; the row expires CHAT4ALL_DEDUPE_DAYS later


class SeenLayout:
    """15 bytes per row, which take 48 in memory: this is the largest table of the product. Older rows have 16 bytes, with one more zero."""

    name = "seen"
    version = 1
    packed = True
    bucketed = False  # buckets would take less memory and more time, and the stage looks up every message here
    keyed_by_record = False  # the key is the message's; the partition is its conversation's
    time_of = attrgetter("accepted_at")

    def encode(self, row: Seen) -> bytes:
        return row.digest + row.accepted_at.to_bytes(7, "big")

    def decode(self, value: bytes) -> Seen:
        return Seen(value[:8], int.from_bytes(value[8:], "big"))

    def as_json(self, row: Seen) -> Any:
        return {"digest": row.digest.hex(), "accepted_at": row.accepted_at}


SEEN = SeenLayout()


def key(message: Message) -> bytes:
    """The key of a message's row."""
    return message_key(message.tenant_id, message.conversation_id, message.message_id).encode()


def digest(message: Message) -> bytes:
    """Eight bytes over the recipients and what they would see. Times and labels are left out: they may differ between repetitions."""
    parts: list[str] = [message.direction, message.sender, message.kind, message.text]
    parts += [repr((r.user_id, r.channel, r.address, r.account)) for r in message.recipients]
    if message.content is not None:
        parts.append(json.dumps(content_json.as_json(message.content)))
    return ids.digest(parts, 8)
