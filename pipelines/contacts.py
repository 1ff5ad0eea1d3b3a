"""Reads the records of topic contacts.

In: key and value of a record. Out: the Contact. Guaranteed: a contact is accepted only under its own key, so a tenant's record cannot
replace a record of another tenant.
"""

from schemas import codec
from schemas.keys import contact_key, is_tenant, shown
from schemas.records import Contact


def contact_in(key: bytes, value: bytes) -> Contact:
    """The contact of a record. Raises ValueError, with a sentence, for a value that is no contact or a key that is not the contact's."""
    contact = codec.decode(value, Contact)
    if not is_tenant(contact.tenant_id):
        raise ValueError(f"tenant_id {contact.tenant_id[:40]!r} is not a valid tenant name")
    wanted = contact_key(contact.tenant_id, contact.user_id).encode()
    if key != wanted:
        raise ValueError(f"the record is of contact {shown(wanted)}: set its key to that, not to {shown(key)}")
    return contact
