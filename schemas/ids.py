"""Ids we make ourselves, always from what they name: the same cause gives the same id, however often it is seen."""

import hashlib

LONGEST = 128  # bytes of a message id
LONGEST_CONVERSATION = 256  # bytes of a conversation id


def inbound_conversation_id(channel: str, account: str, address: str) -> str:
    """The conversation an inbound message belongs to: one per person and account of ours."""
    return _short(f"{channel}:{account}:{address}", channel, LONGEST_CONVERSATION)


def inbound_message_id(channel: str, account: str, provider_message_id: str) -> str:
    """Id of an inbound message; a digest stands in where the provider's own id is too long for one."""
    return _short(f"{channel}:{account}:{provider_message_id}", channel, LONGEST)


def _short(plain: str, channel: str, longest: int) -> str:
    """The id, or a digest of it where it is too long for one."""
    if len(plain.encode()) <= longest:
        return plain
    return f"{channel}:{hashlib.blake2b(plain.encode(), digest_size=20).hexdigest()}"
