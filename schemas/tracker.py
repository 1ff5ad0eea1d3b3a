"""The tracker we hand to a provider that echoes it in receipts: it names the delivery without a join.

Text of at most 512 characters (WhatsApp's limit of biz_opaque_callback_data): `c4a2`, a signature and five fields, separated by `|`; a
sixth, `partial`, marks every part of a delivery but its last. The signature is 96 bits of HMAC-SHA256, with a key of the deployment, over
the fields and the account that sends: whoever can write into a provider's callback field cannot make one, and one that was seen is good
for no other account. Guaranteed: only what `encode` made with one of the keys is decoded, whatever else the text is; a text without that
signature (another system's, a forged one, another account's, `c4a1` of an older release) is None.
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hmac import compare_digest, digest
from urllib.parse import unquote

from schemas.keys import quoted
from schemas.limit_check import allows
from schemas.records import Delivery

LIMIT = 512
MOST_KEYS = 2
KEY_BYTES = 32
_VERSION = "c4a2"
_SIGNATURE_BYTES = 12
_SIGNED = re.compile(rf"{_VERSION}\|([A-Za-z0-9_-]{{16}})(\|.*)", re.DOTALL).fullmatch
_NUMBER = re.compile(r"[0-9]{1,10}").fullmatch


class Keys:
    """The keys of a deployment, newest first: the first one signs, each proves. Without any, no tracker is made and none believed."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = tuple(keys)

    def __repr__(self) -> str:
        return f"Keys({len(self._keys)})"

    def sign(self, text: str) -> str | None:
        """The signature as trackers hold it; None without a key."""
        return _signature(self._keys[0], text) if self._keys else None

    def prove(self, text: str, signature: str) -> bool:
        """Whether one of the keys signed the text; how long that takes tells nothing of the right signature."""
        return any(compare_digest(_signature(key, text), signature) for key in self._keys)


NO_KEYS = Keys()


def keys_in(text: str) -> Keys:
    """The keys of CHAT4ALL_TRACKER_KEYS, none of an empty text. Raises ValueError with a sentence that quotes no key."""
    keys = [key.strip().encode() for key in text.split(",") if key.strip()]
    if len(keys) > MOST_KEYS:
        raise ValueError(f"{len(keys)} keys: keep the {MOST_KEYS} newest, newest first, with a comma between")
    if len(set(keys)) < len(keys):
        raise ValueError("the same key twice: put a new one before it, or give it once")
    for number, key in enumerate(keys, 1):
        if len(key) < KEY_BYTES:
            raise ValueError(
                f"key {number} has {len(key)} bytes, fewer than {KEY_BYTES}: `openssl rand -hex 32` makes one"
            )
    return Keys(keys)


@dataclass(frozen=True, slots=True)
class Tracker:
    tenant_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int
    attempt: int
    partial: bool = False


def encode(delivery: Delivery, attempt: int, keys: Keys, *, partial: bool = False) -> str | None:
    """The tracker of one attempt of the delivery's account; None when the ids are too long for it, or without a key (the receipt then goes
    through the join)."""
    fields = (
        delivery.tenant_id,
        delivery.delivery_id,
        delivery.conversation_id,
        str(delivery.home_partition),
        str(attempt),
        *(("partial",) if partial else ()),
    )
    said = "".join([f"|{quoted(field)}" for field in fields])
    signature = keys.sign(to_sign(delivery.channel, delivery.account, said))
    if signature is None or len(_VERSION) + len("|") + len(signature) + len(said) > LIMIT:
        return None
    return f"{_VERSION}|{signature}{said}"


def decode(text: str | None, keys: Keys, channel: str, account: str) -> Tracker | None:
    """The tracker in a receipt of an account; None when there is none, or it is not one that we made for this account."""
    if not text or len(text) > LIMIT:
        return None
    found = _SIGNED(text)
    if found is None or not keys.prove(to_sign(channel, account, found[2]), found[1]):
        return None
    parts = found[2].split("|")[1:]
    if len(parts) not in (5, 6) or not (_NUMBER(parts[3]) and _NUMBER(parts[4])):
        return None  # signed with our key, but not by this release
    tenant, delivery, conversation = (unquote(part) for part in parts[:3])
    ids: dict[str, str | int] = {
        "tenant_id": tenant,
        "delivery_id": delivery,
        "conversation_id": conversation,
        "attempt": int(parts[4]),
    }
    if not all(allows(field, value) for field, value in ids.items()):
        return None
    return Tracker(tenant, delivery, conversation, int(parts[3]), int(parts[4]), parts[5:] == ["partial"])


def to_sign(channel: str, account: str, said: str) -> str:
    """What is signed: quoted, so that nothing of the account can pass for a field."""
    return f"{quoted(channel)}:{quoted(account)}{said}"


def _signature(key: bytes, text: str) -> str:
    signed = digest(key, f"{_VERSION}|{text}".encode("utf-8", "surrogatepass"), "sha256")
    return urlsafe_b64encode(signed[:_SIGNATURE_BYTES]).decode()
