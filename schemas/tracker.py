"""The tracker we hand to a provider that echoes it in receipts: it names the delivery without a join.

Text of at most 512 characters (WhatsApp's limit of biz_opaque_callback_data), `c4a1` and five fields, separated by `|`; a sixth,
`partial`, marks every part of a delivery but its last.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from schemas.keys import quoted
from schemas.records import Delivery
from schemas.within import allows

LIMIT = 512
_VERSION = "c4a1"
_NUMBER = re.compile(r"[0-9]{1,10}").fullmatch


@dataclass(frozen=True, slots=True)
class Tracker:
    tenant_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int
    attempt: int
    partial: bool = False


def encode(delivery: Delivery, attempt: int, *, partial: bool = False) -> str | None:
    """The tracker of one attempt; None when the ids are too long for it (the receipt then goes through the join)."""
    fields = (
        delivery.tenant_id,
        delivery.delivery_id,
        delivery.conversation_id,
        str(delivery.home_partition),
        str(attempt),
        *(("partial",) if partial else ()),
    )
    text = "|".join((_VERSION, *map(quoted, fields)))
    return text if len(text) <= LIMIT else None


def decode(text: str | None) -> Tracker | None:
    """The tracker in a receipt; None when there is none or it is not ours (another system may use the same account)."""
    parts = (text or "").split("|")
    if parts[0] != _VERSION or len(parts) not in (6, 7) or not (_NUMBER(parts[4]) and _NUMBER(parts[5])):
        return None
    tenant, delivery, conversation = (unquote(part) for part in parts[1:4])
    ids: dict[str, str | int] = {
        "tenant_id": tenant,
        "delivery_id": delivery,
        "conversation_id": conversation,
        "attempt": int(parts[5]),
    }
    if not all(allows(field, value) for field, value in ids.items()):
        return None
    return Tracker(tenant, delivery, conversation, int(parts[4]), int(parts[5]), parts[6:] == ["partial"])
