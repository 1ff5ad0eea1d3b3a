"""Tables `messages` and `message_states` of stage track: the messages of a conversation by sequence, and how far each of them has come.

Key of both: `sequence_key`. `messages` has a row for each message, written once. `message_states` has one for a message with two deliveries
or more: how many of them have which status. One status change rewrites one small row, however many members a group has. The state of a
message with one delivery is the status of that delivery, so it has no row. All functions are pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.keys import conversation_key, quoted
from schemas.records import Status
from tables.layout import JsonLayout
from tables.timelines import FAILURES

ORDER = tuple(Status)  # of the counts in a row; a status is only ever added at the end
# From the worst status of a delivery to the best one.
RANKED = (*FAILURES, Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ)
_REACHED: Mapping[str, tuple[Status, ...]] = {
    "sent": (Status.SENT, Status.DELIVERED, Status.READ),
    "delivered": (Status.DELIVERED, Status.READ),
    "read": (Status.READ,),
    "failed": FAILURES,
}


@dataclass(frozen=True, slots=True)
class LoggedMessage:
    """One message of the conversation log. `kept_from` in Unix milliseconds: the row expires CHAT4ALL_STATE_DAYS later."""

    tenant_id: str
    conversation_id: str
    message_id: str
    seq: int
    direction: str
    kind: str
    accepted_at: int
    kept_from: int
    delivery_ids: tuple[str, ...] = ()  # in the order of the message's recipients
    scheduled_before: int = (
        0  # sequence of the newest message before this one that was for later; 0: none that is known
    )

    @property
    def was_scheduled(self) -> bool:
        """Whether it was for later when it was accepted: its deliveries are sent after those of messages with a higher sequence."""
        return self.kept_from > self.accepted_at


@dataclass(frozen=True, slots=True)
class MessageState:
    """How many deliveries of one message have which status."""

    tenant_id: str
    conversation_id: str
    message_id: str
    seq: int
    counts: tuple[int, ...]  # of deliveries, in the order of ORDER
    updated_at: int  # by our clock, Unix milliseconds; the row expires with the message's


def sequence_key(tenant_id: str, conversation_id: str, seq: int) -> bytes:
    """Key of both tables, in UTF-8: conversation and sequence."""
    return f"{quoted(conversation_key(tenant_id, conversation_id))}/{seq}".encode()


def moved(state: MessageState, before: Status, after: Status, now: int) -> MessageState:
    """The state after one delivery has changed its status."""
    counts = list(state.counts)
    counts[ORDER.index(before)] -= 1
    counts[ORDER.index(after)] += 1
    return MessageState(state.tenant_id, state.conversation_id, state.message_id, state.seq, tuple(counts), now)


def pending(deliveries: int) -> tuple[int, ...]:
    """The counts of a new message."""
    return tuple(deliveries if status is Status.PENDING else 0 for status in ORDER)


def summary(counts: Mapping[Status, int]) -> dict[str, Any]:
    """The state of a message, from the number of its deliveries by status: how many, the worst and the best status, and whether `all`,
    `some` or `none` of them were sent, have arrived, were read and have failed."""
    found = [status for status in RANKED if counts.get(status)]
    number = sum(counts.values())
    words = {}
    for name, statuses in _REACHED.items():
        reached = sum(counts.get(status, 0) for status in statuses)
        words[name] = "none" if not reached else "all" if reached == number else "some"
    by_status = {str(status): counts[status] for status in ORDER if counts.get(status)}
    return {
        "deliveries": number,
        "by_status": by_status,
        "worst": str(found[0]) if found else None,
        "best": str(found[-1]) if found else None,
        **words,
    }


class MessageStatesLayout(JsonLayout[MessageState]):
    """JSON with field names; the views show the summary too."""

    def as_json(self, row: MessageState) -> Any:
        return JsonLayout.as_json(self, row) | {"summary": summary(dict(zip(ORDER, row.counts, strict=True)))}


MESSAGES = JsonLayout("messages", LoggedMessage, time="kept_from", bucketed=True)
MESSAGE_STATES = MessageStatesLayout("message_states", MessageState)
