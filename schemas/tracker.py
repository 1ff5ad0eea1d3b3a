"""The tracker: a text that we give to a provider, which returns it in receipts. It names the delivery, so that no join is needed.

It has at most 512 characters (WhatsApp's limit of biz_opaque_callback_data): `c4a2`, a signature and five fields, separated by `|`. A sixth
field, `partial`, marks every part of a delivery but its last. The signature is 96 bits of HMAC-SHA256, with a key of the deployment, over
the fields and the account that sends. So a program that can write into a provider's callback field cannot forge a tracker, and a copied one
is not valid for another account. Guaranteed: `decode` returns only what `encode` made with one of the keys; for any other text (of another
system, forged, of another account, `c4a1` of an older release) it returns None. Every function is pure; any thread may call it.
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

LIMIT = 512  # characters of a tracker
MOST_KEYS = 2
KEY_BYTES = 32  # the shortest key
_VERSION = "c4a2"
_SIGNATURE_BYTES = 12
_SIGNED = re.compile(rf"{_VERSION}\|([A-Za-z0-9_-]{{16}})(\|.*)", re.DOTALL).fullmatch
_NUMBER = re.compile(r"[0-9]{1,10}").fullmatch


class Keys:
    """The keys of a deployment, newest first. The first one signs, and each can verify. Without a key no tracker is made, and none is
    valid."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = tuple(keys)

    def __repr__(self) -> str:
        return f"Keys({len(self._keys)})"

    def sign(self, text: str) -> str | None:
        """The signature of the text: 16 characters of URL-safe base64; None without a key."""
        return _signature(self._keys[0], text) if self._keys else None

    def prove(self, text: str, signature: str) -> bool:
        """Whether one of the keys signed the text. The comparison takes constant time, so its duration reveals nothing."""
        return True in [compare_digest(_signature(key, text), signature) for key in self._keys]


NO_KEYS = Keys()


def keys_in(text: str) -> Keys:
    """The keys in a value of CHAT4ALL_TRACKER_KEYS; an empty text has none. Raises ValueError with a sentence that contains no key."""
    keys = [key.strip().encode() for key in text.split(",") if key.strip()]
    if len(keys) > MOST_KEYS:
        raise ValueError(f"{len(keys)} keys: keep the {MOST_KEYS} newest, newest first, with a comma between them")
    if len(set(keys)) < len(keys):
        raise ValueError("the same key twice: write it once")
    for number, key in enumerate(keys, 1):
        if len(key) < KEY_BYTES:
            raise ValueError(
                f"key {number} has {len(key)} bytes, fewer than {KEY_BYTES}: `openssl rand -hex 32` makes one"
            )
    return Keys(keys)


@dataclass(frozen=True, slots=True)
class Tracker:
    """What a valid tracker names: the delivery, its conversation with the home partition, and the number of the attempt."""

    tenant_id: str
    delivery_id: str
    conversation_id: str
    home_partition: int
    attempt: int
    partial: bool = False


def encode(delivery: Delivery, attempt: int, keys: Keys, *, partial: bool = False) -> str | None:
    """The tracker of attempt number `attempt` of a delivery, at most 512 characters. None if the ids are too long for it or there is no
    key; the receipt then needs the join."""
    fields = (
        delivery.tenant_id,
        delivery.delivery_id,
        delivery.conversation_id,
        str(delivery.home_partition),
        str(attempt),
        *(("partial",) if partial else ()),
    )
    joined = "".join([f"|{quoted(field)}" for field in fields])
    signature = keys.sign(to_sign(delivery.channel, delivery.account, joined))
    if signature is None or len(_VERSION) + len("|") + len(signature) + len(joined) > LIMIT:
        return None
    return f"{_VERSION}|{signature}{joined}"


def decode(text: str | None, keys: Keys, channel: str, account: str) -> Tracker | None:
    """The tracker in a receipt for an account. None if there is none, or if we did not make it for this account. Raises nothing."""
    if not text or len(text) > LIMIT:
        return None
    found = _SIGNED(text)
    if found is None or not keys.prove(to_sign(channel, account, found[2]), found[1]):
        return None
    parts = found[2].split("|")[1:]
    if len(parts) not in (5, 6) or not (_NUMBER(parts[3]) and _NUMBER(parts[4])):
        return None  # signed with our key, but not by this release
    tenant, delivery, conversation, attempt = unquote(parts[0]), unquote(parts[1]), unquote(parts[2]), int(parts[4])
    if not (
        allows("tenant_id", tenant)
        and allows("delivery_id", delivery)
        and allows("conversation_id", conversation)
        and allows("attempt", attempt)
    ):
        return None
    return Tracker(tenant, delivery, conversation, int(parts[3]), attempt, parts[5:] == ["partial"])


def to_sign(channel: str, account: str, fields: str) -> str:
    """The text to sign. `fields` are the joined fields, each with a `|` before it. Channel and account are quoted, so that no part of them
    reads as a field."""
    return f"{quoted(channel)}:{quoted(account)}{fields}"


def _signature(key: bytes, text: str) -> str:
    signed = digest(key, f"{_VERSION}|{text}".encode("utf-8", "surrogatepass"), "sha256")
    return urlsafe_b64encode(signed[:_SIGNATURE_BYTES]).decode()
