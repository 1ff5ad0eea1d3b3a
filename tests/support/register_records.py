"""Records of the topics that stage register reads, under their own keys."""

from typing import Any

from pipelines.engine.stage import Record
from schemas.keys import contact_key, suppression_key
from schemas.records import Address, Contact
from tests.support.builders import NOW, raw, record, suppression


def contact(user_id: str = "ana", *addresses: str, **changes: Any) -> Contact:
    """A contact with these addresses on WhatsApp."""
    fields: dict[str, Any] = {
        "user_id": user_id,
        "addresses": tuple(Address(channel="whatsapp", address=each) for each in addresses or ("15550001",)),
        "updated_at": NOW,
    }
    return Contact(**(fields | changes))


def contact_record(user_id: str = "ana", *addresses: str, offset: int = 0, **changes: Any) -> Record:
    made = contact(user_id, *addresses, **changes)
    key = contact_key(made.tenant_id, made.user_id).encode()
    return record("contacts", made, key=key, offset=offset)


def deleted_contact(user_id: str = "ana", *, tenant_id: str = "default", offset: int = 0) -> Record:
    return raw("contacts", None, key=contact_key(tenant_id, user_id).encode(), offset=offset)


def suppression_record(*, offset: int = 0, **changes: Any) -> Record:
    made = suppression(**changes)
    key = suppression_key(made.tenant_id, made.channel, made.account, made.address).encode()
    return record("suppressions", made, key=key, offset=offset)
