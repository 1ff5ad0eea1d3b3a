"""Contacts as they lie on their topic.

Enters: key and value of a record. Leaves: the Contact. Guaranteed: a contact is taken under its own key only, so that no tenant's
record takes the place of another's.
"""

from schemas import codec
from schemas.keys import contact_key, is_tenant, shown
from schemas.records import Contact


def contact_in(key: bytes, value: bytes) -> Contact:
    """Raises ValueError with a sentence for what is no contact, or lies under another key than its own content's."""
    contact = codec.decode(value, Contact)
    if not is_tenant(contact.tenant_id):
        raise ValueError(f"tenant_id {contact.tenant_id[:40]!r} is no tenant's name")
    wanted = contact_key(contact.tenant_id, contact.user_id).encode()
    if key != wanted:
        raise ValueError(f"the record is of contact {shown(wanted)}: set its key to that, not to {shown(key)}")
    return contact
