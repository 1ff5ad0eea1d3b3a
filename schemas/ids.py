"""Ids we make ourselves, always from what they name: the same cause gives the same id, however often it is seen."""

import hashlib
from collections.abc import Iterable

LONGEST = 128  # bytes of a message id
LONGEST_CONVERSATION = 256  # bytes of a conversation id


def digest(parts: Iterable[str], size: int) -> bytes:
    """`size` bytes that name these texts in this order; each goes in with its length, so no two lists come to the same."""
    whole = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def inbound_conversation_id(channel: str, account: str, address: str) -> str:
    """The conversation an inbound message belongs to: one per person and account of ours."""
    return _short(f"{channel}:{account}:{address}", channel, LONGEST_CONVERSATION)


def inbound_message_id(channel: str, account: str, provider_message_id: str) -> str:
    """Id of an inbound message; a digest stands in where the provider's own id is too long for one."""
    return _short(f"{channel}:{account}:{provider_message_id}", channel, LONGEST)


def shown_id(delivery_id: str, tenant_id: str, address: str) -> str:
    """What the internal channel calls a delivery: the tenant and the person are part of it, so that nobody else can confirm it."""
    return f"{delivery_id}.{digest((tenant_id, address), 8).hex()}"


def _short(plain: str, channel: str, longest: int) -> str:
    """The id, or a digest of it where it is too long for one."""
    if len(plain.encode()) <= longest:
        return plain
    return f"{channel}:{hashlib.blake2b(plain.encode(), digest_size=20).hexdigest()}"
