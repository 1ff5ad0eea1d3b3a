"""What stage track learned of one conversation, as plain facts for tests/support/receipt_reference.py. Times are Unix milliseconds."""

from typing import NamedTuple

# What a channel reports: arrivals, reads, and whether a read means everything before it.
CHANNELS = {
    "whatsapp": (True, True, False),
    "instagram": (False, True, True),
    "telegram": (False, False, False),
    "internal": (True, True, False),
}
FAILURES = ("FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED")  # the first one that is known counts
ENDED = ("DELIVERED", "READ", *FAILURES)
Place = tuple[str, str, str]  # channel, account, address


class Made(NamedTuple):
    """A delivery is in the conversation log."""

    delivery_id: str
    message_id: str
    seq: int
    member: str
    named: bool  # by a user id, not by the address
    place: Place
    is_signal: bool
    accepted: int
    due: int  # when it was to be sent; 0: at once


class Said(NamedTuple):
    """What an attempt or a receipt says of one delivery."""

    delivery_id: str
    event_id: str
    status: str
    at: int
    inferred: bool
    ready: int | None = None  # when the delivery was the first of its lane
    called: int | None = None  # when the call of the attempt started
    throttled: bool = False


class Reported(NamedTuple):
    """A client says that everything up to a sequence has arrived, or was read."""

    place: Place
    status: str
    up_to: int
    at: int


class Replied(NamedTuple):
    """Somebody wrote."""

    channel: str
    address: str


Fact = Made | Said | Reported | Replied
