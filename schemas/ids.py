"""Ids we make ourselves, always from what they name: the same cause gives the same id, however often it is seen."""

import hashlib

LONGEST = 128  # bytes of a message id


def inbound_conversation_id(channel: str, account: str, address: str) -> str:
    """The conversation an inbound message belongs to: one per person and account of ours."""
    return f"{channel}:{account}:{address}"


def inbound_message_id(channel: str, account: str, provider_message_id: str) -> str:
    """Id of an inbound message; a digest stands in where the provider's own id is too long for one."""
    plain = f"{channel}:{account}:{provider_message_id}"
    if len(plain.encode()) <= LONGEST:
        return plain
    return f"{channel}:{hashlib.blake2b(plain.encode(), digest_size=20).hexdigest()}"
