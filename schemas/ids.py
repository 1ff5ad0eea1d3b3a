"""The ids that we make. Each is made from what it names, so the same cause always gives the same id. Pure."""

import hashlib
from collections.abc import Iterable

LONGEST = 128  # bytes of a message id
LONGEST_CONVERSATION = 256  # bytes of a conversation id


def digest(parts: Iterable[str], size: int) -> bytes:
    """A digest of `size` bytes (1 to 64) of these texts in this order. Each text is hashed with its length, so two different lists never
    join to the same input."""
    whole = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def delivery_id(  # noqa: PLR0917  # what the id is made from, in its order
    tenant_id: str, conversation_id: str, message_id: str, recipient: str, channel: str, address: str
) -> str:
    """The id of a delivery, 32 hex digits: the same for the same message and recipient, however often it is decided."""
    return digest((tenant_id, conversation_id, message_id, recipient, channel, address, "0"), 16).hex()


def inbound_conversation_id(channel: str, account: str, address: str) -> str:
    """Id of the conversation that an inbound message belongs to: one per person and account. At most 256 bytes."""
    return _short(f"{channel}:{account}:{address}", channel, LONGEST_CONVERSATION)


def inbound_message_id(channel: str, account: str, provider_message_id: str) -> str:
    """Id of an inbound message, at most 128 bytes: made from the provider's id, or from a digest of it if that is too long."""
    return _short(f"{channel}:{account}:{provider_message_id}", channel, LONGEST)


def shown_id(delivery_id: str, tenant_id: str, address: str) -> str:
    """Id of a delivery on the internal channel. A digest of tenant and person is part of it, so no other client can confirm the
    delivery."""
    return f"{delivery_id}.{digest((tenant_id, address), 8).hex()}"


def _short(plain: str, channel: str, longest: int) -> str:
    """The id, or a digest of it if it has more than `longest` bytes."""
    if len(plain.encode()) <= longest:
        return plain
    return f"{channel}:{hashlib.blake2b(plain.encode(), digest_size=20).hexdigest()}"
