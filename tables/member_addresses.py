"""Table `member_addresses` of stage track: which member of a conversation has an address. Key: `address_key`.

It has a row only where deliveries name the member by a user id: elsewhere the member is the address itself. A message of a person, and a
report of a client, name the address.
"""

from dataclasses import dataclass

from schemas.keys import conversation_key, quoted
from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class AddressOfMember:
    """The newest delivery to an address in a conversation was for this member."""

    member: str


def address_key(tenant_id: str, conversation_id: str, channel: str, address: str) -> bytes:
    """Key of the table, in UTF-8: conversation, channel and address, percent-quoted."""
    return f"{quoted(conversation_key(tenant_id, conversation_id))}/{quoted(channel)}/{quoted(address)}".encode()


MEMBER_ADDRESSES = JsonLayout("member_addresses", AddressOfMember, bucketed=True)
